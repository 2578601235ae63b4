"""Restores a backup into a home, so that nobody comes back who was erased, and tries one in a home of its own.

Steps of a restore, each of which may be done again:

1. Everything is verified that can be before anything changes: signature, digests, versions, the erasure ledger, keys.
2. The home is marked: from here on nothing is served from it. Nobody else may use the databases.
3. The databases are emptied, read in, counted, and brought to this version's schema.
4. The erasure ledger is replayed, and audit logs are let go on, which certificates prove events of.
5. Erasures that the backup knows as under way are finished, and whoever was erased again leaves files, too.
6. It is recorded, and the mark is taken away.

One that is refused, or fails, is recorded wherever there is a log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.service import CloudAuditLogger
from cloud.backup import manifest as manifests
from cloud.backup.heads import LogCut, accept_restored
from cloud.backup.loading import Loader, check_opens
from cloud.backup.marker import Phase, RestoreMarker
from cloud.backup.model import Manifest, RestoredData
from cloud.backup.postgres import PostgresBackupStore
from cloud.custody.postgres import PostgresCustodyStore
from cloud.kernel import failpoints
from cloud.kernel.access import Action
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import ConfigurationError, LuminescentError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.keys.attendance import attendees
from cloud.keys.ports import RootKey
from cloud.settings import CloudSettings
from cloud.startup.auditing import audit_key_file
from cloud.startup.backups import programs
from cloud.startup.erasures import erasure_ledger
from cloud.startup.installation import Installation, Opening, open_installation
from cloud.startup.keyring import find_root_keys, keyring_directory
from cloud.startup.runtime import CloudRuntime
from cloud.startup.servers import open_for_restore, operators_draft, record_failure
from cloud.startup.servers import upgrade as upgrade_server
from cloud.storage.home import open_home
from cloud.storage.migrate import RevisionState, state_of
from cloud.storage.roles import APP_ROLE, CONTROL_DATABASE
from cloud.storage.server import Server

_log = logging.getLogger(__name__)

Told = Callable[[str, int, int | None], None]
"""Told what is done now, how much of it, and of how much."""

_LEDGER_LOST: Final = (
    "there is no erasure ledger in {directory}, so nobody knows who was erased since the backup: put it there from"
    " where it is kept, or set erasure_ledger_dir to it. If it is lost, --without-ledger restores all the same, and"
    " rows of whoever was erased since come back, readable if the keyring has their keys"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What is to be restored, and how.

    Attributes:
        directory: The backup.
        key: What it is sealed with.
        expired: Whether it may have expired.
        without_ledger: Whether the erasure ledger is lost.
    """

    directory: Path
    key: RootKey | None = None
    expired: bool = False
    without_ledger: bool = False


def restore(
    settings: CloudSettings, request: Request, told: Told = lambda *_: None, *, opening: Opening | None = None
) -> RestoredData:
    """Both databases are as the backup has them, without whoever was erased since, when this returns.

    Args:
        settings: Of the home.
        request: What is to be restored.
        told: Told how far it is.
        opening: How the installation is opened.

    Raises:
        ConfigurationError: The backup or the home cannot be used. Before the first change the message says why; after
            it, nothing is served until a restore ends well.
        ProviderUnavailableError: A part did not answer; calling again begins again.
    """
    home = open_home(settings.home)
    draft = operators_draft(Action.BACKUP_RESTORE)
    try:
        manifest = _verified(settings, request, told)
    except LuminescentError as error:
        if settings.control_url is not None or (home.postgres / "data").exists():
            _record_refusal(settings, draft, error)
        raise
    draft = dataclasses.replace(draft, details={"backup_id": manifest.backup.backup_id})
    marker = RestoreMarker(settings.home)
    opening = dataclasses.replace(
        opening or Opening(), restoring=True, without_ledger=request.without_ledger and not _has_ledger(settings)
    )
    with contextlib.ExitStack() as stack:
        server = open_for_restore(settings)
        stack.callback(server.close)
        with _failure_recorded(server, draft):
            was_marked = marker.phase()
            marker.put(manifest.backup.backup_id, was_marked or Phase.LOADED)
            try:
                _check_alone(settings, server, opening)
            except LuminescentError:
                if was_marked is None:
                    marker.remove()
                raise
            marker.put(manifest.backup.backup_id, Phase.LOADING)
            failpoints.reach("data_restore.marked")
            upgraded = _loaded(settings, server, request, manifest, told)
            marker.put(manifest.backup.backup_id, Phase.LOADED)
            failpoints.reach("data_restore.loaded")
            told("Replaying the erasure ledger", 0, None)
            restored = _finished(settings, opening, manifest, draft, upgraded=upgraded)
            marker.remove()
    return restored


def _verified(settings: CloudSettings, request: Request, told: Told) -> Manifest:
    """The manifest, once everything holds that can be known before anything changes."""
    keys = audit_key_file(settings, find_root_keys(settings, create=False))
    if not keys.exists():
        raise ConfigurationError(
            f"the audit keys are missing, and nothing tells this installation's backups from others: put secrets/ of"
            f" the home back, {settings.home / 'secrets' / 'audit-keys.json'} among it"
        )
    manifest = manifests.read(request.directory, keys.keys())
    if manifest.contents.installation != keys.keys().installation:
        raise ConfigurationError("this backup is of another installation")
    if manifest.backup.expires_at <= system_clock() and not request.expired:
        raise ConfigurationError(
            f"this backup expired on {manifest.backup.expires_at:%Y-%m-%d}: erasures count on its being "
            "deleted; delete it, luminescent-cloud backup expire, or restore it with --expired if there is no other"
        )
    if state_of(manifest.contents.revision) is RevisionState.NEWER:
        raise ConfigurationError(
            f"this backup is at revision {manifest.contents.revision}, which this version does not know; install "
            f"version {manifest.contents.software}, which made it, or a newer one"
        )
    if not keyring_directory(settings).exists():
        raise ConfigurationError(
            f"there is no keyring in {keyring_directory(settings)}, and without it nothing of the backup can be read: "
            "put it back first, luminescent-cloud keyring restore FILE"
        )
    ledger = erasure_ledger(settings, keys)
    if ledger.exists():
        ledger.since(manifest.contents.ledger)
    elif not request.without_ledger:
        raise ConfigurationError(_LEDGER_LOST.format(directory=ledger.path.parent))
    manifests.verify_files(request.directory, manifest, lambda done, total: told("Verifying the backup", done, total))
    check_opens(request.directory, manifest, request.key)
    return manifest


def _has_ledger(settings: CloudSettings) -> bool:
    keys = audit_key_file(settings, find_root_keys(settings, create=False))
    return erasure_ledger(settings, keys).exists()


def _check_alone(settings: CloudSettings, server: Server, opening: Opening) -> None:
    users = () if opening.shares_keyring else attendees(keyring_directory(settings))
    if users:
        raise ConfigurationError(f"{len(users)} process(es) have this installation open; stop the service first")
    Loader(server, programs(settings)).check_alone()


def _loaded(settings: CloudSettings, server: Server, request: Request, manifest: Manifest, told: Told) -> bool:
    """Both databases hold the backup, at this version's schema; whether that needed an upgrade."""
    loader = Loader(server, programs(settings))
    loader.empty()
    loader.load(
        request.directory,
        manifest,
        request.key,
        lambda name, done: told(f"Reading {name}", done, None),
    )
    return upgrade_server(server).state is RevisionState.OLDER


def _finished(
    settings: CloudSettings, opening: Opening, manifest: Manifest, draft: AuditDraft, *, upgraded: bool
) -> RestoredData:
    """Nobody is back who was erased, the logs go on, and it is recorded."""
    backup_id = manifest.backup.backup_id
    reason = f"restore of backup {backup_id}"
    # Its worker would materialize before the ledger is replayed.
    installation = open_installation(settings.model_copy(update={"worker": "off"}), opening)
    runtime = None
    try:
        runtime = CloudRuntime(installation)
        step = dataclasses.replace(
            draft, action=Action.BACKUP_RESTORE_STEP, event_id=new_event_id(), process=installation.presence.id
        )
        runtime.audit.record(SYSTEM_LOG, step, Outcome.ALLOWED, reason="intent")
        failpoints.reach("data_restore.replayed")
        cut = accept_restored(
            installation.proofs.trees, installation.proofs.outside, installation.proofs.keys.keys, reason
        )
        failpoints.reach("data_restore.accepted")
        _remembered(installation, backup_id)
        if opening.may_finish:
            # Once the logs go on: certificates prove events of them.
            _erased_to_the_end(runtime)
        failpoints.reach("data_restore.erased")
        _recorded(runtime.audit, draft, cut, installation.replayed.counts())
    finally:
        if runtime is not None:
            runtime.close()
        else:
            installation.close()
    return RestoredData(manifest, installation.replayed, len(cut), upgraded)


def _erased_to_the_end(runtime: CloudRuntime) -> None:
    """What the backup knows as begun is finished, and what was erased again leaves the files that were just written."""
    try:
        runtime.gdpr.resume()
    except ConfigurationError as error:
        # Such as one that cannot be certified. It is done or stays frozen, as it was when the backup was made.
        _log.error("an erasure could not be finished and is tried again at the next start: %s", error)  # noqa: TRY400
    runtime.closing.resume()
    # Before anything is served, whatever the windows for rewriting.
    runtime.gdpr.upkeep()


def _remembered(installation: Installation, backup_id: str) -> None:
    """The control plane knows of this backup, and of the keyring's, which may be younger than it is."""
    PostgresBackupStore(installation.engines.maintenance).complete(backup_id)
    custody, files = PostgresCustodyStore(installation.engines.maintenance), installation.keyring.files
    for backup in installation.keyring.backups():
        custody.add_backup(files.slots.keyring_id.hex(), backup)


def _recorded(audit: CloudAuditLogger, draft: AuditDraft, cut: Sequence[LogCut], counts: Mapping[str, int]) -> None:
    for log in cut:
        details = {"log": log.log_id, "size": log.size, "signed": log.signed, **dict(draft.details)}
        about = dataclasses.replace(draft, action=Action.AUDIT_ACCEPT, event_id=new_event_id(), details=details)
        if log.size and log.log_id != SYSTEM_LOG:
            audit.record(log.log_id, dataclasses.replace(about, event_id=new_event_id()), Outcome.ALLOWED)
        audit.record(SYSTEM_LOG, about, Outcome.ALLOWED)
    audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={**counts, "logs_cut": len(cut)})


def _record_refusal(settings: CloudSettings, draft: AuditDraft, error: LuminescentError) -> None:
    with contextlib.suppress(LuminescentError):  # Why it was refused is what has to be said.
        server = open_for_restore(settings)
        try:
            record_failure(server.url(APP_ROLE, CONTROL_DATABASE), draft, error)
        finally:
            server.close()


@contextlib.contextmanager
def _failure_recorded(server: Server, draft: AuditDraft) -> Iterator[None]:
    try:
        yield
    except LuminescentError as error:
        record_failure(server.url(APP_ROLE, CONTROL_DATABASE), draft, error)
        raise
