"""Every operation of the services around the memories, enumerated as `operations` does theirs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cloud import CloudRuntime
from cloud.gdpr.fingerprints import Fingerprint, FingerprintSet, Trace, write
from cloud.leaktest.service import Size
from cloud.tenancy.placements import own_placement
from src.testing.samples import sample_memory
from tests.isolation.operations import GDPR_OPERATIONS, OPERATIONS, Stage

NOW: Final = datetime.now(UTC)


def _nothing(_: CloudRuntime, __: Stage) -> None:
    """Nothing has to be there."""


@dataclass(frozen=True, slots=True)
class ServiceOperation:
    """One operation.

    Attributes:
        label: The runtime's attribute, the method, and the way it is called where there are several.
        action: What its audit event says.
        call: Calls it, with what was prepared; may be awaited.
        prepare: Makes what it needs, as an operation of its own.
        role: A role that may do it; `None` where whoever runs the process may.
        outcome: `failed` where succeeding would take long, or change the installation that other tests share.
        names_tenant: Whether it is about one tenant.
    """

    label: str
    action: str
    call: Callable[[CloudRuntime, Stage, Any], object]
    prepare: Callable[[CloudRuntime, Stage], object] = _nothing
    role: str | None = None
    outcome: str = "allowed"
    names_tenant: bool = True

    @property
    def method(self) -> str:
        """The runtime's attribute and the method."""
        return self.label.partition(":")[0]


def _key(runtime: CloudRuntime, stage: Stage) -> str:
    runtime.api_keys.create(stage.tenant_id, roles={"member"}, user_id=stage.user_id)
    return runtime.api_keys.list(stage.tenant_id)[-1].key_id


def _hold(runtime: CloudRuntime, stage: Stage) -> object:
    return runtime.usage.reserve(stage.tenant_id, "tokens", 5)


def _suspended(runtime: CloudRuntime, stage: Stage) -> None:
    runtime.tenants.suspend(stage.tenant_id)


def _closed(runtime: CloudRuntime, stage: Stage) -> None:
    runtime.closing.close(stage.tenant_id, confirmed=True)


def _own_table(runtime: CloudRuntime, stage: Stage) -> str:
    runtime.tenants.move(stage.tenant_id, to="own")
    return own_placement(stage.tenant_id)


def _migrated(runtime: CloudRuntime, stage: Stage) -> str:
    placement = _own_table(runtime, stage)
    runtime.embeddings.migrate(placement, "hashing", tolerance=1.0)
    return placement


def _file(_: CloudRuntime, stage: Stage) -> str:
    path = stage.directory / "import.jsonl"
    path.write_text(sample_memory(stage.user_id).model_dump_json(exclude={"id"}) + "\n")
    return str(path)


def _fingerprints(_: CloudRuntime, stage: Stage) -> Path:
    path = stage.directory / "fingerprints"
    pattern = Fingerprint(Trace.PLAINTEXT, "utf-8", 0, b"nowhere to be found")
    write(FingerprintSet(stage.tenant_id, NOW, (pattern,)), path)
    return path


_OF_FOREIGN: Final = {"user_id": "zuleika.quartermain@example.org", "note": "tabs"}

SERVICE_OPERATIONS: Final = (
    ServiceOperation("tenants.create", "tenant.create", lambda r, s, _: r.tenants.create(s.tenant_id, plan="team")),
    ServiceOperation("tenants.change", "tenant.change", lambda r, s, _: r.tenants.change(s.tenant_id, plan="free")),
    ServiceOperation("tenants.move", "tenant.move", lambda r, s, _: r.tenants.move(s.tenant_id, to="own")),
    ServiceOperation("tenants.suspend", "tenant.suspend", lambda r, s, _: r.tenants.suspend(s.tenant_id)),
    ServiceOperation("tenants.resume", "tenant.resume", lambda r, s, _: r.tenants.resume(s.tenant_id), _suspended),
    ServiceOperation("tenants.list", "tenant.list", lambda r, _, __: r.tenants.list(), names_tenant=False),
    ServiceOperation("closing.close:preview", "tenant.close", lambda r, s, _: r.closing.close(s.tenant_id)),
    ServiceOperation(
        "closing.close:confirmed", "tenant.close", lambda r, s, _: r.closing.close(s.tenant_id, confirmed=True)
    ),
    ServiceOperation(
        "closing.certificate", "tenant.certificate", lambda r, s, _: r.closing.certificate(s.tenant_id), _closed
    ),
    ServiceOperation(
        "api_keys.create",
        "api_key.create",
        lambda r, s, _: r.api_keys.create(s.tenant_id, roles={"member"}, user_id=s.user_id),
    ),
    ServiceOperation("api_keys.rotate", "api_key.rotate", lambda r, s, key: r.api_keys.rotate(s.tenant_id, key), _key),
    ServiceOperation("api_keys.revoke", "api_key.revoke", lambda r, s, key: r.api_keys.revoke(s.tenant_id, key), _key),
    ServiceOperation("api_keys.list", "api_key.list", lambda r, s, _: r.api_keys.list(s.tenant_id), _key),
    ServiceOperation("api_keys.review:one", "access.review", lambda r, s, _: r.api_keys.review(s.tenant_id), _key),
    ServiceOperation(
        "api_keys.review:all", "access.review_all", lambda r, _, __: r.api_keys.review(), names_tenant=False
    ),
    ServiceOperation(
        "tokens.check",
        "token.check",
        lambda r, s, _: r.tokens.check(s.user_id),
        outcome="failed",
        names_tenant=False,
    ),
    ServiceOperation(
        "tokens.revoke",
        "token.revoke",
        lambda r, s, _: r.tokens.revoke(s.user_id),
        outcome="failed",
        names_tenant=False,
    ),
    ServiceOperation(
        "usage.track",
        "usage.track",
        lambda r, s, _: r.usage.track("tabs", 1, {"tenant_id": s.tenant_id, "event_id": s.user_id}),
    ),
    ServiceOperation("usage.get_usage_summary", "usage.read", lambda r, s, _: r.usage.get_usage_summary(s.tenant_id)),
    ServiceOperation("usage.daily", "usage.read", lambda r, s, _: r.usage.daily(s.tenant_id)),
    ServiceOperation("usage.monthly", "usage.read", lambda r, s, _: r.usage.monthly(s.tenant_id)),
    ServiceOperation("usage.reconcile", "usage.reconcile", lambda r, s, _: r.usage.reconcile(s.tenant_id)),
    ServiceOperation("usage.reserve", "usage.reserve", lambda r, s, _: r.usage.reserve(s.tenant_id, "tokens", 5)),
    ServiceOperation("usage.commit", "usage.commit", lambda r, _, hold: r.usage.commit(hold), _hold),
    ServiceOperation("usage.release", "usage.release", lambda r, _, hold: r.usage.release(hold), _hold),
    ServiceOperation(
        "audit.log_event",
        "external.event",
        lambda r, s, _: r.audit.log_event(
            "tabs", s.user_id, s.user_id, "tabs", "success", {"tenant_id": s.tenant_id, **_OF_FOREIGN}
        ),
    ),
    ServiceOperation(
        "audit.log_security_event",
        "security.event",
        lambda r, s, _: r.audit.log_security_event(
            "tabs", "info", s.user_id, {"tenant_id": s.tenant_id, **_OF_FOREIGN}
        ),
    ),
    ServiceOperation(
        "audit.log_gdpr_deletion",
        "gdpr.erase",
        lambda r, s, _: r.audit.log_gdpr_deletion(s.user_id, s.tenant_id, {"memories": 1}, NOW),
    ),
    ServiceOperation(
        "audit.log_gdpr_export",
        "gdpr.export",
        lambda r, s, _: r.audit.log_gdpr_export(s.user_id, s.tenant_id, 1, NOW),
    ),
    ServiceOperation(
        "audit.log", "external.event", lambda r, s, _: r.audit.log({"tenant_id": s.tenant_id, **_OF_FOREIGN})
    ),
    ServiceOperation("audit.export", "audit.export", lambda r, s, _: r.audit.export(s.tenant_id, s.directory / "log")),
    ServiceOperation(
        "audit.export_evidence",
        "audit.export",
        lambda r, s, _: r.audit.export_evidence(s.tenant_id, s.directory / "evidence"),
    ),
    ServiceOperation("audit.verifier_key", "audit.key", lambda r, s, _: r.audit.verifier_key(s.tenant_id)),
    ServiceOperation("audit.checkpoint", "audit.checkpoint", lambda r, s, _: r.audit.checkpoint(s.tenant_id)),
    ServiceOperation(
        "audit.accept",
        "audit.accept",
        lambda r, s, _: r.audit.accept(s.tenant_id, "nothing was cut off"),
        outcome="failed",
        names_tenant=False,
    ),
    ServiceOperation("audit.rotate_key", "audit.rotate_key", lambda r, _, __: r.audit.rotate_key(), names_tenant=False),
    ServiceOperation(
        "audit_archives.archive",
        "audit.archive",
        lambda r, _, __: r.audit_archives.archive(dry_run=True),
        names_tenant=False,
    ),
    ServiceOperation("audit.events", "audit.read", lambda r, s, _: r.audit.events(s.tenant_id)),
    ServiceOperation(
        "audit.events:system", "audit.system", lambda r, _, __: r.audit.events("_system"), names_tenant=False
    ),
    ServiceOperation(
        "transfer.import_file",
        "memory.import",
        lambda r, s, path: r.transfer.import_file(path, user_id=s.user_id),
        _file,
        role="service",
    ),
    ServiceOperation(
        "transfer.export",
        "memory.export",
        lambda r, s, _: r.transfer.export(s.directory / "out.jsonl", user_id=s.user_id),
        role="service",
    ),
    ServiceOperation(
        "transfer.export:all",
        "memory.export_all",
        lambda r, s, _: r.transfer.export(s.directory / "all.jsonl"),
        role="tenant_admin",
    ),
    ServiceOperation("memory_purge.purge:one", "memory.purge", lambda r, s, _: r.memory_purge.purge(s.tenant_id)),
    ServiceOperation(
        "memory_purge.purge:all", "memory.purge", lambda r, _, __: r.memory_purge.purge(), names_tenant=False
    ),
    ServiceOperation(
        "embeddings.status", "embeddings.status", lambda r, _, __: r.embeddings.status(), names_tenant=False
    ),
    ServiceOperation(
        "embeddings.chosen",
        "embeddings.status",
        lambda r, s, _: r.embeddings.chosen([s.tenant_id]),
        names_tenant=False,
    ),
    ServiceOperation(
        "embeddings.migrate",
        "embeddings.migrate",
        lambda r, _, placement: r.embeddings.migrate(placement, "hashing", tolerance=1.0),
        _own_table,
        names_tenant=False,
    ),
    ServiceOperation(
        "embeddings.rollback",
        "embeddings.rollback",
        lambda r, _, placement: r.embeddings.rollback(placement),
        _migrated,
        names_tenant=False,
    ),
    ServiceOperation(
        "embeddings.finish",
        "embeddings.finish",
        lambda r, _, placement: r.embeddings.finish(placement),
        _migrated,
        names_tenant=False,
    ),
    ServiceOperation(
        "backups.create",
        "backup.create",
        lambda r, s, _: r.backups.create(s.directory / "backup"),
        names_tenant=False,
    ),
    ServiceOperation("backups.list", "backup.list", lambda r, _, __: r.backups.list(), names_tenant=False),
    ServiceOperation("backups.expire", "backup.expire", lambda r, _, __: r.backups.expire(), names_tenant=False),
    ServiceOperation(
        "backups.rebuild_ledger",
        "backup.ledger",
        lambda r, _, __: r.backups.rebuild_ledger(),
        names_tenant=False,
    ),
    ServiceOperation("keyring.status", "keyring.status", lambda r, _, __: r.keyring.status(), names_tenant=False),
    ServiceOperation("keyring.backups", "keyring.status", lambda r, _, __: r.keyring.backups(), names_tenant=False),
    ServiceOperation(
        "keyring.rotate_root",
        "keyring.rotate",
        lambda r, s, _: r.keyring.rotate_root(s.directory / s.user_id),
        outcome="failed",
        names_tenant=False,
    ),
    ServiceOperation("keyring.rotate_tenant", "keyring.rotate", lambda r, s, _: r.keyring.rotate_tenant(s.tenant_id)),
    ServiceOperation(
        "keyring.destroy_root_key",
        "keyring.destroy_root_key",
        lambda r, s, _: r.keyring.destroy_root_key(s.user_id),
        names_tenant=False,
    ),
    ServiceOperation(
        "keyring.backup",
        "keyring.backup",
        lambda r, s, _: r.keyring.backup(s.directory / "keyring.backup"),
        names_tenant=False,
    ),
    ServiceOperation(
        "keyring.restore",
        "keyring.restore",
        lambda r, s, _: r.keyring.restore(s.directory / s.user_id),
        outcome="failed",
        names_tenant=False,
    ),
    ServiceOperation(
        "keyring.reconcile", "keyring.reconcile", lambda r, _, __: r.keyring.reconcile(), names_tenant=False
    ),
    ServiceOperation("keyring.accept", "keyring.accept", lambda r, _, __: r.keyring.accept(), names_tenant=False),
    ServiceOperation(
        "scan.take",
        "gdpr.scan.take",
        lambda r, s, _: r.scan.take(s.user_id, s.tenant_id, s.directory / "fingerprints"),
        role="tenant_admin",
    ),
    ServiceOperation("scan.search", "gdpr.scan.search", lambda r, _, path: r.scan.search(path), _fingerprints),
    ServiceOperation(
        "leak_test.run",
        "leak_test.run",
        lambda r, _, __: r.leak_test.run(Size(tenants=0)),
        outcome="failed",
        names_tenant=False,
    ),
)

_PART: Final = "a part of another operation: it has neither a caller nor an audit event of its own"
_RESUMES: Final = "finishes what was begun before; each that it finishes is an operation"
_CONSTANT: Final = "tells what this process was made with"

NO_OPERATIONS: Final[Mapping[str, str]] = {
    "memory.close": "ends the provider",
    "gdpr.resume": _RESUMES,
    "gdpr.upkeep": _RESUMES,
    "closing.resume": _RESUMES,
    "closing.again": _RESUMES,
    "keyring.resume": _RESUMES,
    "keyring.now": _CONSTANT,
    "keyring.note": _PART,
    **dict.fromkeys(("backups.now", "backups.level", "backups.expire_due"), _PART),
    "embeddings.embedder": _CONSTANT,
    **dict.fromkeys((f"usage.{name}" for name in ("check_quota", "observed", "denied", "exceeded")), _PART),
    **dict.fromkeys(("usage.use_admission", "usage.use_books", "audit.use_admission", "audit.use_evidence"), _PART),
    **dict.fromkeys(("audit.draft", "audit.record"), _PART),
    **dict.fromkeys(
        (
            f"tenant_provider.{name}"
            for name in ("get_tenant_id", "get_tenant_filter", "validate_tenant_access", "identify")
        ),
        _PART,
    ),
    "pixeltable_config.open": "opens the installation",
    "pixeltable_config.opener": "opens the installation",
    "pixeltable_config.close": "closes the installation",
}
"""Public methods that are no operations, and why."""

CLASSIFIED: Final = (
    {operation.method for operation in SERVICE_OPERATIONS}
    | {f"{'gdpr' if op in GDPR_OPERATIONS else 'memory'}.{op.method}" for op in OPERATIONS}
    | NO_OPERATIONS.keys()
)


def public_methods(runtime: CloudRuntime) -> Iterator[str]:
    """The public methods of every service that the runtime offers."""
    for surface, service in sorted(vars(runtime).items()):
        if surface.startswith("_"):
            continue
        for name, _ in inspect.getmembers(type(service), inspect.isroutine):
            if not name.startswith("_"):
                yield f"{surface}.{name}"
