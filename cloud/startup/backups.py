"""Builds the backups of an installation, restores one, and tries one in a home of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from cloud.audit.keyfile import AuditKeyFile
from cloud.audit.postgres import PostgresAuditStore
from cloud.audit.service import CloudAuditLogger
from cloud.backup.loading import connected
from cloud.backup.marker import RestoreMarker
from cloud.backup.postgres import PostgresBackupStore
from cloud.backup.programs import Programs
from cloud.backup.service import DataBackups, Operators, Sources
from cloud.gdpr.ledger import FileErasureLedger
from cloud.gdpr.ledger_postgres import PostgresLedgerView
from cloud.gdpr.rebuilding import rebuild_ledger
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import ConfigurationError
from cloud.keys.inspection import mark_of
from cloud.keys.sqlite import FileKeyring
from cloud.settings import CloudSettings
from cloud.startup.auditing import audit_key_file
from cloud.startup.engines import Engines, open_engines
from cloud.startup.erasures import erasure_ledger
from cloud.startup.keyring import find_root_keys, keyring_directory
from cloud.startup.servers import bring_up_to_date, open_server, refusals_recorded
from cloud.storage.embedded import programs_directory
from cloud.storage.home import open_home
from cloud.storage.presence import Presence
from cloud.storage.roles import BACKUP_ROLE
from cloud.storage.server import Server
from cloud.tenancy.administration import Administration
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.postgres import PostgresApiKeyLookup, PostgresTenantStore
from cloud.tenancy.provider import CloudTenantProvider

_NO_KEYS: Final = (
    "the audit keys are missing: start the service once, or put {path} back from the backup of the root key"
)


def programs(settings: CloudSettings) -> Programs:
    """PostgreSQL's programs: those of the embedded server, unless the settings name others."""
    # Not the service's own settings, which hold secrets.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LUMINESCENT_")}
    return Programs(settings.postgres_programs_dir or programs_directory(), environment)


def build_backups(
    settings: CloudSettings,
    server: Server,
    engines: Engines,
    keyring: FileKeyring,
    keys: AuditKeyFile,
    ledger: FileErasureLedger,
    operators: Operators,
    audit: CloudAuditLogger,
) -> DataBackups:
    """The backups of an installation that is open."""
    sources = Sources(
        server=server,
        connect=lambda database: connected(server, BACKUP_ROLE, database),
        engine=engines.maintenance,
        programs=programs(settings),
        keyring=lambda: mark_of(keyring.files),
        keys=keys.keys,
        ledger=ledger,
    )
    return DataBackups(
        sources,
        PostgresBackupStore(engines.maintenance),
        operators,
        audit,
        system_clock,
        days=settings.backup_days,
        rebuild=lambda: rebuild_ledger(ledger, PostgresLedgerView(engines.maintenance), system_clock()).records,
    )


@contextlib.contextmanager
def open_backups(settings: CloudSettings) -> Iterator[DataBackups]:
    """The backups of an installation, without Pixeltable and whatever else serves.

    Raises:
        ConfigurationError: The control plane or the keyring cannot be opened, or a restore is under way.
        ProviderUnavailableError: The server did not answer in time.
    """
    with contextlib.ExitStack() as stack:
        presence = Presence(open_home(settings.home).locks)
        stack.callback(presence.close)
        RestoreMarker(settings.home).check()
        server = open_server(settings)
        stack.callback(server.close)
        with refusals_recorded(server):
            bring_up_to_date(settings, server)
        engines = open_engines(settings, server)
        stack.callback(engines.close)
        root_keys = find_root_keys(settings, create=False)
        keyring = FileKeyring.open(keyring_directory(settings), root_keys)
        stack.callback(keyring.close)
        keys = audit_key_file(settings, root_keys)
        if not keys.exists():
            raise ConfigurationError(_NO_KEYS.format(path=settings.home / "secrets" / "audit-keys.json"))
        identities = IdentityResolver(
            PostgresApiKeyLookup(engines.keys), keyring, system_clock, trusted_gateway=False, default_tenant=None
        )
        audit = CloudAuditLogger(PostgresAuditStore(engines.app, engines.maintenance), keyring, process=presence.id)
        operators = Administration(
            CloudTenantProvider(identities), identities, audit, PostgresTenantStore(engines.maintenance)
        )
        ledger = erasure_ledger(settings, keys)
        yield build_backups(settings, server, engines, keyring, keys, ledger, operators, audit)
