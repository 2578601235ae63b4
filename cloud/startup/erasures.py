"""Builds the erasure ledger of an installation, and what replays it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloud.audit.keyfile import AuditKeyFile
from cloud.audit.ports import TransactionalAuditLogger
from cloud.gdpr.closing import TenantClosing
from cloud.gdpr.closing_postgres import PostgresClosingStore
from cloud.gdpr.erasing import Erasing
from cloud.gdpr.evidence import DueNow, Evidence
from cloud.gdpr.ledger import FileErasureLedger
from cloud.gdpr.ledger_postgres import PostgresLedgerView
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.replay import Replay
from cloud.kernel.clock import system_clock
from cloud.memory.config import PixeltableConfig
from cloud.settings import CloudSettings
from cloud.startup.engines import Engines
from cloud.tenancy.administration import Administration
from cloud.tenancy.postgres import PostgresTenantStore
from cloud.tenancy.provider import CloudTenantProvider

_LEDGER_NAME: Final = "erasure-ledger"


def ledger_directory(settings: CloudSettings) -> Path:
    """Where the erasure ledger is."""
    return settings.erasure_ledger_dir or settings.home / _LEDGER_NAME


def erasure_ledger(settings: CloudSettings, keys: AuditKeyFile) -> FileErasureLedger:
    """The erasure ledger.

    Raises:
        ConfigurationError: Its directory is not private.
    """
    return FileErasureLedger(ledger_directory(settings), keys.keys, system_clock)


def build_replay(
    engines: Engines,
    config: PixeltableConfig,
    audit: TransactionalAuditLogger,
    ledger: FileErasureLedger,
    *,
    first_model: str,
) -> Replay:
    """What lets the databases follow the ledger."""
    tenants = PostgresTenantStore(engines.maintenance, first_model=first_model)
    admissions = Administration(CloudTenantProvider(config.identities), config.identities, audit, tenants)
    store, later = PostgresErasureStore(engines.maintenance), DueNow(config.clock)
    erasing = Erasing(store, engines.maintenance, config, audit, Evidence(rewriter=later, backups=later), lambda: None)
    closing = TenantClosing(
        PostgresClosingStore(engines.maintenance), erasing, tenants, admissions, audit, config.clock
    )
    return Replay(
        ledger,
        PostgresLedgerView(engines.maintenance),
        store,
        engines.maintenance,
        config,
        erasing,
        audit,
        close_again=closing.again,
    )
