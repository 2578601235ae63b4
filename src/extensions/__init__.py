"""The extension points of the open core: one protocol each, and the registry that holds who implements them."""

from __future__ import annotations

from src.extensions.audit import AUDIT_LOGGER_VERSION, AuditLogger
from src.extensions.gdpr import GDPR_SERVICE_VERSION, GDPRService
from src.extensions.memory import MEMORY_PROVIDER_VERSION, MemoryProvider
from src.extensions.registry import ExtensionRegistry
from src.extensions.tenant import TENANT_PROVIDER_VERSION, TenantProvider
from src.extensions.usage import USAGE_TRACKER_VERSION, UsageTracker

__all__ = [
    "AUDIT_LOGGER_VERSION",
    "GDPR_SERVICE_VERSION",
    "MEMORY_PROVIDER_VERSION",
    "TENANT_PROVIDER_VERSION",
    "USAGE_TRACKER_VERSION",
    "AuditLogger",
    "ExtensionRegistry",
    "GDPRService",
    "MemoryProvider",
    "TenantProvider",
    "UsageTracker",
]
