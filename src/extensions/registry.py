"""Where a deployment plugs in its own parts."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import ClassVar

from src.extensions.audit import AuditLogger
from src.extensions.gdpr import GDPRService
from src.extensions.memory import MemoryProvider
from src.extensions.tenant import TenantProvider
from src.extensions.usage import UsageTracker


@dataclass(slots=True)
class ExtensionRegistry:
    """The extensions of this process; each is `None` until a deployment assigns its own at start-up.

    `get` always returns the same registry, whichever thread asks. Assigning is atomic; that an extension can be used
    by many threads is up to the extension.

    Attributes:
        tenant_provider: Who is calling.
        usage_tracker: What was used, and whether more may be.
        audit_logger: The record of who did what.
        gdpr_service: Erasure and export of a person.
        memory_provider: Where memories are kept.
    """

    tenant_provider: TenantProvider | None = None
    usage_tracker: UsageTracker | None = None
    audit_logger: AuditLogger | None = None
    gdpr_service: GDPRService | None = None
    memory_provider: MemoryProvider | None = None

    _instance: ClassVar[ExtensionRegistry | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def get(cls) -> ExtensionRegistry:
        """The one registry of this process."""
        with cls._lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    @classmethod
    def reset(cls) -> None:
        """Forget the registry and what is registered in it; the next `get` makes an empty one. For tests."""
        with cls._lock:
            cls._instance = None

    def is_multi_tenant(self) -> bool:
        """Whether a tenant provider is registered."""
        return self.tenant_provider is not None

    def is_metered(self) -> bool:
        """Whether a usage tracker is registered."""
        return self.usage_tracker is not None

    def is_audited(self) -> bool:
        """Whether an audit logger is registered."""
        return self.audit_logger is not None

    def has_gdpr_service(self) -> bool:
        """Whether a GDPR service is registered."""
        return self.gdpr_service is not None

    def has_memory_provider(self) -> bool:
        """Whether a memory provider is registered."""
        return self.memory_provider is not None

    def get_status(self) -> dict[str, bool | str]:
        """Which extensions are registered.

        Returns:
            A boolean per extension, and `mode`: `cloud` as soon as tenants, usage or audit are, else `oss`.
        """
        cloud = self.is_multi_tenant() or self.is_metered() or self.is_audited()
        return {
            "tenant_provider": self.is_multi_tenant(),
            "usage_tracker": self.is_metered(),
            "audit_logger": self.is_audited(),
            "gdpr_service": self.has_gdpr_service(),
            "memory_provider": self.has_memory_provider(),
            "mode": "cloud" if cloud else "oss",
        }
