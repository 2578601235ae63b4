"""The composition root: builds an installation from settings, checks it, registers its extensions, takes it down.

Nothing below reads settings or the environment; every adapter is picked here.
"""

from cloud.startup.backups import open_backups
from cloud.startup.custody import open_custody
from cloud.startup.engines import Engines
from cloud.startup.installation import Installation, open_installation
from cloud.startup.runtime import CloudRuntime, init_cloud_extensions
from cloud.startup.working import run_worker

__all__ = [
    "CloudRuntime",
    "Engines",
    "Installation",
    "init_cloud_extensions",
    "open_backups",
    "open_custody",
    "open_installation",
    "run_worker",
]
