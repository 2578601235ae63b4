"""What the command line needs of the program above it, which hands it in: this layer knows no composition root."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cloud.audit.archiving import AuditArchives
from cloud.audit.service import CloudAuditLogger
from cloud.backup.model import Drilled, RestoredData
from cloud.backup.service import DataBackups
from cloud.custody.service import Custody
from cloud.gdpr.closing import TenantClosing
from cloud.gdpr.scanning import ResidueScan
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel.findings import Finding
from cloud.keys.ports import RootKey
from cloud.leaktest.service import LeakTest
from cloud.memory.embeddings import Embeddings
from cloud.memory.provider import CloudMemoryProvider
from cloud.memory.purge import MemoryPurge
from cloud.settings import CloudSettings
from cloud.storage.migrate import Revision
from cloud.tenancy.api_keys import ApiKeys
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.service import Tenants
from cloud.tenancy.token_administration import TokenAdministration
from cloud.transfer.service import CloudTransfer
from cloud.usage.service import CloudUsageTracker

Told = Callable[[str, int, int | None], None]
"""Told what is done now, how much of it, and of how much."""


class Runtime(Protocol):
    """An open installation, as commands use it."""

    memory: CloudMemoryProvider
    memory_purge: MemoryPurge
    tenant_provider: CloudTenantProvider
    tenants: Tenants
    embeddings: Embeddings
    api_keys: ApiKeys
    tokens: TokenAdministration
    usage: CloudUsageTracker
    audit: CloudAuditLogger
    audit_archives: AuditArchives
    transfer: CloudTransfer
    gdpr: CloudGDPRService
    closing: TenantClosing
    scan: ResidueScan
    keyring: Custody
    backups: DataBackups
    leak_test: LeakTest

    async def drain(self, *, timeout_s: float = ...) -> None:
        """Wait until every memory accepted so far is in Pixeltable.

        Raises:
            ProviderUnavailableError: That took longer than `timeout_s`.
        """
        ...


class Upkeep(Protocol):
    """What is done to an installation that may not open; nothing of it needs a runtime."""

    def revision(self, settings: CloudSettings) -> Revision:
        """How the schema compares with this code."""
        ...

    def upgrade(self, settings: CloudSettings) -> Revision:
        """Bring the schema to this code's; returns what was found before."""
        ...

    def check_databases(self, settings: CloudSettings) -> Sequence[Finding]:
        """What is right and what is wrong with the databases."""
        ...

    def doctor(self, settings: CloudSettings) -> Sequence[Finding]:
        """What is right and what is wrong with the whole installation."""
        ...

    def restore(
        self,
        settings: CloudSettings,
        directory: Path,
        key: RootKey | None,
        *,
        expired: bool,
        without_ledger: bool,
        told: Told,
    ) -> RestoredData:
        """Put the databases of a backup in place of the present ones."""
        ...

    def drill(
        self, settings: CloudSettings, directory: Path, key: RootKey | None, *, expired: bool, told: Told
    ) -> Drilled:
        """Restore a backup in a home of its own, look at it, and take that away again."""
        ...


@dataclass(frozen=True, slots=True)
class Program:
    """What start-up lends to the command line.

    Attributes:
        settings: Makes settings from the environment; arguments given come first.
        open: Opens the installation; its context manager takes it down.
        open_custody: Opens the custody of the keyring, also where the keyring cannot be opened.
        open_backups: Opens the backups of both databases, without Pixeltable.
        run_worker: Materializes until the event is set.
        upkeep: What can be done without opening it.
    """

    settings: Callable[..., CloudSettings]
    open: Callable[[CloudSettings], AbstractContextManager[Runtime]]
    open_custody: Callable[..., AbstractContextManager[Custody]]
    open_backups: Callable[[CloudSettings], AbstractContextManager[DataBackups]]
    run_worker: Callable[[CloudSettings, threading.Event], None]
    upkeep: Upkeep
