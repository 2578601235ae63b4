"""Builds what makes an installation's audit log prove itself: keys, trees, sequencer, heads outside the database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloud.audit.abuse import WINDOW_S, Abuse
from cloud.audit.alerts import Alerts, alerts_to
from cloud.audit.archive_files import ArchiveFiles
from cloud.audit.archives_postgres import PostgresArchives
from cloud.audit.archiving import Archiver
from cloud.audit.exports import Evidence
from cloud.audit.heads import HeadFault
from cloud.audit.intents import Intent
from cloud.audit.keyfile import AuditKeyFile
from cloud.audit.model import Actor, AuditDraft, Category, Outcome
from cloud.audit.outside import DirectoryHeads
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.retention import RetentionRules
from cloud.audit.sequencer import Sequencer
from cloud.audit.sequencing import Sequencing
from cloud.audit.trees_postgres import PostgresTrees, PostgresTreeStore
from cloud.audit.whole import WholeLogs
from cloud.kernel.access import Action
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import QuotaExceededError
from cloud.kernel.ids import SYSTEM_LOG, new_request_id
from cloud.kernel.scope import PrincipalKind
from cloud.keys.rootkeys import RootKeys
from cloud.settings import CloudSettings
from cloud.storage.engine import ControlEngine
from cloud.storage.presence import Processes
from cloud.usage.model import Plan

_KEYS_NAME: Final = "audit-keys.json"
_HEADS_NAME: Final = "audit-heads"
_ARCHIVE_NAME: Final = "audit-archive"
_SEQUENCER: Final = Actor(PrincipalKind.SYSTEM, "sequencer")


@dataclass(frozen=True, slots=True)
class AuditProofs:
    """What proves an installation's audit log.

    Attributes:
        keys: The keys that sign.
        outside: Where heads are kept outside the database.
        trees: The trees, read as the role that may read every log.
        sequencing: Grows the trees.
        evidence: Exports them.
        alerts: Is told of security events.
        archiver: Archives old months, and deletes archives that were kept long enough.
    """

    keys: AuditKeyFile
    outside: DirectoryHeads
    trees: PostgresTrees
    sequencing: Sequencing
    evidence: Evidence
    alerts: Alerts
    archiver: Archiver


def audit_key_file(settings: CloudSettings, root_keys: RootKeys) -> AuditKeyFile:
    """The installation's audit keys."""
    return AuditKeyFile(settings.home / "secrets" / _KEYS_NAME, root_keys)


def heads_directory(settings: CloudSettings) -> Path:
    """Where heads are kept outside the database."""
    return settings.audit_heads_dir or settings.home / _HEADS_NAME


def archive_files(settings: CloudSettings) -> ArchiveFiles:
    """Where old months of the logs go."""
    return ArchiveFiles(settings.audit_archive_dir or settings.home / _ARCHIVE_NAME)


def retention_rules(settings: CloudSettings, plans: Mapping[str, Plan]) -> RetentionRules:
    """How long audit logs are kept."""
    return RetentionRules({plan.name: plan.audit for plan in plans.values()}, settings.audit_minimum_days)


def build_proofs(
    settings: CloudSettings,
    plans: Mapping[str, Plan],
    root_keys: RootKeys,
    audit: TransactionalAuditLogger,
    *,
    worker: ControlEngine,
    maintenance: ControlEngine,
    locks: Path,
    on_close: Callable[[Callable[[], None]], object],
) -> AuditProofs:
    """Open the keys, made where no tree was ever signed, and build the rest.

    Raises:
        ConfigurationError: The keys are missing or cannot be opened, or a directory or URL cannot be used.
        ProviderUnavailableError: The control plane did not answer.
    """
    keys = audit_key_file(settings, root_keys)
    trees = PostgresTrees(maintenance)
    if not keys.exists() and not trees.is_any():
        keys.create(system_clock())
    keys.keys()
    outside = DirectoryHeads(heads_directory(settings), keys.keys, system_clock)
    url = settings.alert_webhook_url
    alerts = alerts_to(url.get_secret_value() if url is not None else None)
    on_close(alerts.close)
    store = PostgresTreeStore(worker)
    sequencing = Sequencing(
        Sequencer(store, keys.keys, outside.heads),
        trees,
        outside,
        keys.keys,
        alerts,
        _Records(audit),
        store,
        Processes(locks),
        system_clock,
    )
    archives, files = PostgresArchives(maintenance), archive_files(settings)
    files.prepare()
    whole = WholeLogs(trees, archives, files)
    archiver = Archiver(
        archives, files, trees, outside, keys.keys, audit, retention_rules(settings, plans), system_clock
    )
    evidence = Evidence(whole, sequencing, outside, keys.keys, lambda: keys.rotate(system_clock()))
    return AuditProofs(keys, outside, trees, sequencing, evidence, alerts, archiver)


class _Records:
    """`Records` in the audit log."""

    def __init__(self, audit: TransactionalAuditLogger) -> None:
        self._audit = audit

    def tampering(self, fault: HeadFault) -> None:
        draft = AuditDraft(
            action=Action.AUDIT_TAMPERING,
            actor=_SEQUENCER,
            request_id=new_request_id(),
            category=Category.SECURITY,
            details={"log": fault.log_id, "size": fault.size, "kept": fault.kept, "severity": "critical"},
        )
        self._audit.record(SYSTEM_LOG, draft, Outcome.FAILED, reason=fault.fault.value)

    def abuse(self, abuse: Abuse) -> None:
        draft = AuditDraft(
            action=Action.QUOTA_ABUSE,
            actor=_SEQUENCER,
            request_id=new_request_id(),
            category=Category.SECURITY,
            details={"meter": abuse.meter, "window_s": int(WINDOW_S), "severity": "warning"},
        )
        self._audit.record(
            abuse.log_id,
            draft,
            Outcome.DENIED,
            reason=QuotaExceededError.code,
            counts={"refusals": abuse.refusals},
        )

    def unknown(self, intent: Intent) -> None:
        draft = AuditDraft(
            action=Action(intent.action),
            actor=_SEQUENCER,
            request_id=intent.request_id,
            category=Category.ADMINISTRATION,
            details={"intent": intent.event_id, "begun_at": intent.occurred_at.isoformat()},
        )
        self._audit.record(intent.log_id, draft, Outcome.UNKNOWN, reason="cut_off")
