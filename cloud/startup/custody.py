"""Custody of the keyring without the rest of the installation.

Also where the keyring cannot be opened, or must not serve: that is when its custody is needed most.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cloud.audit.keyfile import AuditKeyFile
from cloud.audit.postgres import PostgresAuditStore
from cloud.audit.service import CloudAuditLogger
from cloud.backup.marker import RestoreMarker
from cloud.custody.ports import KeyringPlace
from cloud.custody.postgres import PostgresCustodyStore
from cloud.custody.service import Custody
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import ConfigurationError
from cloud.keys.inmemory import InMemoryKeyring
from cloud.keys.rootkeys import RootKeys
from cloud.keys.sqlite import FileKeyring
from cloud.settings import CloudSettings
from cloud.startup.auditing import audit_key_file
from cloud.startup.engines import Engines, open_engines
from cloud.startup.keyring import find_root_keys, keyring_directory
from cloud.startup.servers import bring_up_to_date, open_server, refusals_recorded
from cloud.storage.home import open_home
from cloud.storage.presence import Presence
from cloud.tenancy.administration import Administration
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.postgres import PostgresApiKeyLookup, PostgresTenantStore
from cloud.tenancy.provider import CloudTenantProvider


@contextlib.contextmanager
def open_custody(settings: CloudSettings, *, with_keyring: bool = True) -> Iterator[Custody]:
    """The control plane and the custody of its keyring, which may be missing, damaged or the wrong one.

    Args:
        settings: Of the installation.
        with_keyring: Whether to open the keyring; it must not be open while one is restored.

    Raises:
        ConfigurationError: The control plane cannot be opened, or there is no root key.
        ProviderUnavailableError: It did not answer in time.
    """
    with contextlib.ExitStack() as stack:
        presence = Presence(open_home(settings.home).locks)
        stack.callback(presence.close)
        # What keeps a restore from going on may be the keyring.
        RestoreMarker(settings.home).check(loaded=True)
        server = open_server(settings)
        stack.callback(server.close)
        with refusals_recorded(server):
            bring_up_to_date(settings, server)
        engines = open_engines(settings, server)
        stack.callback(engines.close)
        root_keys = find_root_keys(settings, create=False)
        keyring, problem = _opened(settings, root_keys) if with_keyring else (None, "the keyring is not open")
        if keyring is not None:
            stack.callback(keyring.close)
        place = KeyringPlace(
            keyring_directory(settings), root_keys, lambda at: FileKeyring.open(at, root_keys), keyring, problem
        )
        yield _custody(engines, place, keyring, audit_key_file(settings, root_keys), presence)


def place_of(keyring: FileKeyring, directory: Path, root_keys: RootKeys) -> KeyringPlace:
    """The place of a keyring that is open."""
    return KeyringPlace(directory, root_keys, lambda at: FileKeyring.open(at, root_keys), keyring)


def _opened(settings: CloudSettings, root_keys: RootKeys) -> tuple[FileKeyring | None, str | None]:
    try:
        return FileKeyring.open(keyring_directory(settings), root_keys), None
    except ConfigurationError as error:
        return None, str(error)


def _custody(
    engines: Engines, place: KeyringPlace, keyring: FileKeyring | None, audit_keys: AuditKeyFile, presence: Presence
) -> Custody:
    # Where there is none, nobody can be resolved, and nobody is: only the local operator gets here.
    people = keyring or InMemoryKeyring()
    identities = IdentityResolver(
        PostgresApiKeyLookup(engines.keys), people, system_clock, trusted_gateway=False, default_tenant=None
    )
    audit = CloudAuditLogger(PostgresAuditStore(engines.app, engines.maintenance), people, process=presence.id)
    operators = Administration(
        CloudTenantProvider(identities), identities, audit, PostgresTenantStore(engines.maintenance)
    )
    store = PostgresCustodyStore(engines.maintenance)
    return Custody(place, store, operators, audit, system_clock, on_root_key=audit_keys.rewrap)
