"""The composition root: builds an installation from settings, checks it, registers its extensions, takes it down.

Nothing below reads settings or the environment; every adapter is picked here.
"""

from cloud.startup.custody import open_custody
from cloud.startup.installation import Engines, Installation, open_installation, run_worker
from cloud.startup.runtime import CloudRuntime, init_cloud_extensions

__all__ = [
    "CloudRuntime",
    "Engines",
    "Installation",
    "init_cloud_extensions",
    "open_custody",
    "open_installation",
    "run_worker",
]
