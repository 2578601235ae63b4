"""What the command line needs of the program above it, which hands it in: this layer knows no composition root."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cloud.audit.service import CloudAuditLogger
from cloud.gdpr.service import CloudGDPRService
from cloud.leaktest.service import LeakTest
from cloud.memory.provider import CloudMemoryProvider
from cloud.settings import CloudSettings
from cloud.tenancy.api_keys import ApiKeys
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.service import Tenants
from cloud.usage.service import CloudUsageTracker


class Runtime(Protocol):
    """An open installation, as commands use it."""

    memory: CloudMemoryProvider
    tenant_provider: CloudTenantProvider
    tenants: Tenants
    api_keys: ApiKeys
    usage: CloudUsageTracker
    audit: CloudAuditLogger
    gdpr: CloudGDPRService
    leak_test: LeakTest

    async def drain(self, *, timeout_s: float = ...) -> None:
        """Wait until every memory accepted so far is in Pixeltable.

        Raises:
            ProviderUnavailableError: That took longer than `timeout_s`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """What start-up lends to the command line.

    Attributes:
        settings: Makes settings from the environment; arguments given come first.
        open: Opens the installation; its context manager takes it down.
        run_worker: Materializes until the event is set.
    """

    settings: Callable[..., CloudSettings]
    open: Callable[[CloudSettings], AbstractContextManager[Runtime]]
    run_worker: Callable[[CloudSettings, threading.Event], None]
