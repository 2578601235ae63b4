"""A drill: restores a backup in a home of its own, looks at all of it, and measures what would be lost and how long.

The keyring is the service's own and only looked into: what would make or destroy a key there is a problem that the
drill reports. Secrets, heads and ledger are copies. The scratch home is private and is gone at the end; what lies in it
meanwhile is sealed under people's keys.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.postgres import PostgresAuditStore
from cloud.audit.verify import VerificationError, verify_bundle
from cloud.backup.model import Drilled, Manifest
from cloud.kernel.access import Action
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import LuminescentError, SealBrokenError
from cloud.kernel.findings import Level
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.keys.readonly import ReadOnlyKeyring
from cloud.memory.placement_store import model_of
from cloud.settings import CloudSettings
from cloud.startup.auditing import heads_directory
from cloud.startup.doctor import CHECKS, Context, examine
from cloud.startup.engines import Engines, open_engines
from cloud.startup.erasures import ledger_directory
from cloud.startup.installation import Installation, Opening, open_installation
from cloud.startup.keyring import keyring_directory
from cloud.startup.restoring import Request, Told, restore
from cloud.startup.servers import open_server, operators_draft
from cloud.storage.home import open_home, private_directory
from cloud.storage.presence import Presence
from cloud.tenancy.system import system_predicate

_PEOPLE: Final = 50
_OPENING: Final = Opening(may_finish=False, shares_keyring=True, keyring=ReadOnlyKeyring)


def drill(settings: CloudSettings, request: Request, told: Told = lambda *_: None) -> Drilled:
    """The backup was tried when this returns, and nothing of that is left but its events.

    Raises:
        ConfigurationError: The backup cannot be used.
        ProviderUnavailableError: A part did not answer, or the disk is full.
    """
    with _recording(settings) as (engines, presence):
        draft = dataclasses.replace(operators_draft(Action.BACKUP_DRILL), process=presence.id)
        audit = PostgresAuditStore(engines.app, engines.maintenance)
        step = dataclasses.replace(draft, action=Action.BACKUP_DRILL_STEP, event_id=new_event_id())
        _record(audit, step, Outcome.ALLOWED, "intent")
        try:
            with _scratch(settings) as scratch:
                done = _tried(scratch, request, told)
        except LuminescentError as error:
            _record(audit, draft, Outcome.FAILED, error.code)
            raise
        about = dataclasses.replace(draft, details={"backup_id": done.manifest.backup.backup_id})
        counts = {"rto_s": round(done.rto.total_seconds()), "opened": done.opened, "problems": len(done.problems)}
        if done.rpo is not None:
            counts["rpo_s"] = round(done.rpo.total_seconds())
        _record(audit, about, Outcome.FAILED if done.problems else Outcome.ALLOWED, None, counts)
    return done


def _tried(settings: CloudSettings, request: Request, told: Told) -> Drilled:
    began_at, began_s = system_clock(), time.monotonic()
    restored = restore(settings, request, told, opening=_OPENING)
    told("Opening it as for serving", 0, None)
    installation = open_installation(settings, _OPENING)
    try:
        rto = timedelta(seconds=time.monotonic() - began_s)
        opened, problems = _memories(installation)
        problems += _logs(installation, settings.home / "evidence", told)
    finally:
        installation.close()
    told("Looking at the whole installation", 0, None)
    with Context(settings) as context:
        problems += [
            f"{finding.check}: {finding.what}" for finding in examine(context, CHECKS) if finding.level is Level.PROBLEM
        ]
    return Drilled(
        restored.manifest, _age(restored.manifest, began_at), rto, restored.replayed, opened, tuple(problems)
    )


def _memories(installation: Installation) -> tuple[int, list[str]]:
    """How many sealed memories of a sample of people were opened, and what is wrong with others."""
    config, engines = installation.config, installation.engines
    people = engines.maintenance.rows(
        sa.text(
            "SELECT s.tenant_id, s.subject_id::text, t.placement FROM subjects s JOIN tenants t USING (tenant_id)"
            " WHERE s.state = 'active' AND t.state = 'active'"
            " AND EXISTS (SELECT FROM memories m WHERE m.subject_id = s.subject_id AND m.state = 'active')"
            " ORDER BY s.created_at DESC LIMIT :people"
        ),
        {"people": _PEOPLE},
    )
    opened = broken = without_key = 0
    for tenant_id, subject_id, placement in people:
        person = config.keyring.subject_key(str(tenant_id), str(subject_id))
        if person is None:
            without_key += 1
            continue
        vectorizer = config.models.of(model_of(engines.worker, str(placement), first=config.models.first))
        predicate = system_predicate(str(tenant_id), "drill")
        for row in config.rows.newer(predicate, str(placement), str(subject_id), since=0):
            try:
                vectorizer.open_envelope(person.key, row)
                opened += 1
            except SealBrokenError:
                broken += 1
    problems = [f"{broken} sealed memories do not open"] if broken else []
    if without_key:
        problems.append(f"{without_key} of {len(people)} people have memories and no key: the keyring is older")
    return opened, problems


def _logs(installation: Installation, directory: Path, told: Told) -> list[str]:
    """What does not hold of the audit logs; each is exported whole and verified as anybody may."""
    evidence, problems = installation.proofs.evidence, []
    private_directory(directory)
    logs = sorted(installation.proofs.trees.all_heads())
    for number, log_id in enumerate(logs):
        told("Verifying audit logs", number, len(logs))
        place = directory / str(number)
        try:
            with evidence.exported(log_id, place, since=None, until=None, view=None, progress=lambda *_: None):
                pass
            verify_bundle(place, key=evidence.verifier_key(log_id))
        except (VerificationError, LuminescentError) as error:
            problems.append(f"the audit log of {log_id} does not hold: {error}")
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return problems


@contextlib.contextmanager
def _scratch(settings: CloudSettings) -> Iterator[CloudSettings]:
    """Settings of a new home with what a restore needs; it is gone afterwards."""
    # In the system's directory for such things, whose path is short: a socket lies in it.
    home = Path(tempfile.mkdtemp(prefix="luminescent-drill-"))
    try:
        made = open_home(home)
        shutil.copy2(settings.home / "secrets" / "audit-keys.json", made.secrets)
        (home / "keyring").symlink_to(keyring_directory(settings))
        for source, name in (
            (heads_directory(settings), "audit-heads"),
            (ledger_directory(settings), "erasure-ledger"),
        ):
            if source.is_dir():
                shutil.copytree(source, home / name)
                (home / name).chmod(0o700)
        root_key_file = settings.root_key_file
        if root_key_file is None and settings.root_key is None:
            root_key_file = settings.home / "secrets" / "root.key"
        yield settings.model_copy(
            update={
                "home": home,
                "root_key_file": root_key_file,
                "audit_heads_dir": None,
                "erasure_ledger_dir": None,
                "alert_webhook_url": None,
                "control_url": None,
                "data_url": None,
                "role_passwords_file": None,
                "worker": "off",
            }
        )
    finally:
        # The link and not what it leads to.
        (home / "keyring").unlink(missing_ok=True)
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def _recording(settings: CloudSettings) -> Iterator[tuple[Engines, Presence]]:
    """The control plane that the drill is recorded in, and this process as that knows it."""
    with contextlib.ExitStack() as stack:
        presence = Presence(open_home(settings.home).locks)
        stack.callback(presence.close)
        server = open_server(settings)
        stack.callback(server.close)
        engines = open_engines(settings, server)
        stack.callback(engines.close)
        yield engines, presence


def _record(
    audit: PostgresAuditStore,
    draft: AuditDraft,
    outcome: Outcome,
    reason: str | None,
    counts: dict[str, int] | None = None,
) -> None:
    audit.append(
        SYSTEM_LOG, draft.document(), outcome=outcome.value, reason=reason, resource_ids=(), counts=counts or {}
    )


def _age(manifest: Manifest, now: datetime) -> timedelta | None:
    newest = manifest.contents.newest_event_at
    return None if newest is None else max(now - newest, timedelta())
