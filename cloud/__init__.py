"""The cloud side of Luminescent: multi-tenant memory for AI agents on Pixeltable."""

from cloud.kernel.context import request_context
from cloud.settings import CloudSettings
from cloud.startup import CloudRuntime, init_cloud_extensions

__all__ = ["CloudRuntime", "CloudSettings", "init_cloud_extensions", "request_context"]
