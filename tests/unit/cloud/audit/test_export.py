"""Laws of reading the log: complete, canonical, private, recorded, and only for who may."""

from __future__ import annotations

import json
import stat
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from cloud import CloudRuntime, request_context
from cloud.audit import exports
from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.service import CloudAuditLogger
from cloud.kernel.access import Action
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    ProviderUnavailableError,
)
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from src.testing.samples import sample_memory


def stored(runtime: CloudRuntime, log_id: str) -> list[dict[str, Any]]:
    """The log as it is, read without leaving an event."""
    return list(runtime.audit._store.events(log_id, since=None, until=None))


def fill(runtime: CloudRuntime, log_id: str, count: int) -> list[str]:
    """Append `count` small events within one transaction; returns their ids."""
    import sqlalchemy as sa
    from sqlalchemy.dialects.postgresql import JSONB

    ids = [new_event_id() for _ in range(count)]
    statement = sa.text(
        "SELECT count(lc_append(:log, e, 'allowed', NULL, '{}', '{}')) FROM jsonb_array_elements(:events) AS e"
    ).bindparams(sa.bindparam("events", type_=JSONB))
    documents = [{"event_id": one, "action": "external.event"} for one in ids]
    engine = runtime._installation.engines.maintenance
    engine.transaction(lambda c: c.execute(statement, {"log": log_id, "events": documents}))
    return ids


async def test_an_export_holds_every_event_as_one_canonical_line(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    with request_context(tenant_id=tenant_id, user_id="alice", roles={"service"}):
        await runtime.memory.store(sample_memory("alice", content="grüße \u2028 🦊"), {})
        await runtime.memory.retrieve("grüße", "alice")
    runtime.audit.log_event("é", "b", "r", "x", "success", {"tenant_id": tenant_id})
    before = stored(runtime, tenant_id)
    path = runtime.audit.export(tenant_id, tmp_path / "out")
    assert path == tmp_path / "out" / "events.ndjson"
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    *events, intent = [json.loads(line) for line in lines]
    assert events == before
    assert intent["action"] == "audit.export.step"
    for line in lines:
        assert rfc8785.dumps(json.loads(line)) == line
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "grüße".encode() not in path.read_bytes()


def test_an_export_is_itself_recorded_with_who_and_how_many(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    count = len(stored(runtime, tenant_id))
    with request_context(tenant_id=tenant_id, user_id="dana", roles={"auditor"}):
        runtime.audit.export(tenant_id, tmp_path)
        runtime.audit.events(tenant_id)
    intent, export, read = stored(runtime, tenant_id)[count:]
    assert (intent["action"], intent["request_id"]) == ("audit.export.step", export["request_id"])
    assert (export["action"], export["outcome"], export["counts"]) == ("audit.export", "allowed", {"events": count + 1})
    assert (read["action"], read["outcome"], read["counts"]) == ("audit.read", "allowed", {"events": count + 2})
    person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "dana", create=False)
    assert person is not None
    assert export["actor"] == {"kind": "subject", "id": person.subject_id, "roles": ["auditor"]}


def test_an_export_overwrites_nothing(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_text("mine")
    with pytest.raises(ConfigurationError, match="not empty"):
        runtime.audit.export(tenant_id, tmp_path)
    assert (tmp_path / "events.ndjson").read_text() == "mine"
    link = tmp_path / "linked"
    link.mkdir()
    (link / "events.ndjson").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError):
        runtime.audit.export(tenant_id, link)
    assert not (tmp_path / "elsewhere").exists()
    ended = [event for event in stored(runtime, tenant_id) if event["action"] == "audit.export"]
    assert [event["outcome"] for event in ended] == ["failed", "failed"]


def test_an_unknown_format_writes_nothing(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ndjson"):
        runtime.audit.export(tenant_id, tmp_path / "out", format="xml")
    assert not (tmp_path / "out").exists()
    assert stored(runtime, tenant_id)[-1]["outcome"] == "failed"


def test_a_directory_that_cannot_be_written_is_named(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file"):
        runtime.audit.export(tenant_id, tmp_path / "file" / "out")


def test_an_export_whose_record_cannot_be_committed_leaves_nothing_that_looks_complete(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runtime.audit.record

    def record(log_id: str, draft: AuditDraft, outcome: Outcome, **more: Any) -> None:
        if draft.action == Action.AUDIT_EXPORT and outcome is Outcome.ALLOWED:
            raise ProviderUnavailableError("control plane")
        real(log_id, draft, outcome, **more)

    monkeypatch.setattr(runtime.audit, "record", record)
    with pytest.raises(ProviderUnavailableError):
        runtime.audit.export(tenant_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_period_includes_its_first_moment_and_not_its_last(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    for number in range(3):
        runtime.audit.log_event("e", f"a{number}", "r", "x", "success", {"tenant_id": tenant_id})
    moments = [datetime.fromisoformat(event["occurred_at"]) for event in stored(runtime, tenant_id)]
    assert moments == sorted(moments)

    def exported(name: str, **period: datetime) -> list[datetime]:
        path = runtime.audit.export(tenant_id, tmp_path / name, **period)  # type: ignore[arg-type]
        found = [datetime.fromisoformat(json.loads(line)["occurred_at"]) for line in path.read_text().splitlines()]
        # The first and the last are neighbours, which show that nothing is missing at the ends.
        assert all(period["since"] <= moment < period["until"] for moment in found[1:-1])
        return found

    before, first, second, third = moments[:4]
    assert exported("a", since=first, until=third) == [before, first, second, third]
    assert exported("c", since=third, until=third + timedelta(microseconds=1))[:2] == [second, third]
    naive = [moment.replace(tzinfo=None) for moment in (first, third)]
    path = runtime.audit.export(tenant_id, tmp_path / "d", since=naive[0], until=naive[1])
    assert path.read_bytes() == (tmp_path / "a" / "events.ndjson").read_bytes(), "a naive time is UTC"


def test_a_log_of_several_pages_is_read_whole_and_in_order(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    known = [event["event_id"] for event in stored(runtime, tenant_id)]
    ids = fill(runtime, tenant_id, 2_500)
    path = runtime.audit.export(tenant_id, tmp_path)
    exported = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["event_id"] for event in exported[:-1]] == known + ids
    keys = [(event["occurred_at"], event["event_id"]) for event in exported]
    assert keys == sorted(keys)


# Who may read


@pytest.mark.parametrize("role", ["auditor", "tenant_admin"])
def test_auditors_and_administrators_read_their_tenants_log(
    runtime: CloudRuntime, tenant_id: str, role: str, tmp_path: Path
) -> None:
    with request_context(tenant_id=tenant_id, user_id="dana", roles={role}):
        assert runtime.audit.export(tenant_id, tmp_path).exists()
        assert runtime.audit.events(tenant_id)


@pytest.mark.parametrize("role", ["service", "member", "operator"])
def test_nobody_else_reads_it(runtime: CloudRuntime, tenant_id: str, role: str, tmp_path: Path) -> None:
    count = len(stored(runtime, tenant_id))
    with request_context(tenant_id=tenant_id, user_id="dana", roles={role}):
        with pytest.raises(PermissionDeniedError):
            runtime.audit.export(tenant_id, tmp_path / "out")
        with pytest.raises(PermissionDeniedError):
            runtime.audit.events(tenant_id)
    assert not (tmp_path / "out").exists()
    assert [event["outcome"] for event in stored(runtime, tenant_id)[count:]] == ["denied", "denied"]


def test_no_tenant_reads_anothers_log(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    other = runtime.tenants.create(f"{tenant_id}-other").tenant_id
    for role in ("auditor", "tenant_admin"):
        with request_context(tenant_id=tenant_id, roles={role}), pytest.raises(PermissionDeniedError):
            runtime.audit.export(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("role", ["auditor", "tenant_admin", "service", "member"])
def test_the_system_log_is_for_operators(runtime: CloudRuntime, tenant_id: str, role: str, tmp_path: Path) -> None:
    with request_context(tenant_id=tenant_id, user_id="dana", roles={role}):
        with pytest.raises(PermissionDeniedError):
            runtime.audit.export(SYSTEM_LOG, tmp_path / "out")
        with pytest.raises(PermissionDeniedError):
            runtime.audit.events(SYSTEM_LOG)
    assert not (tmp_path / "out").exists()
    with request_context(tenant_id=tenant_id, roles={"operator"}):
        assert runtime.audit.events(SYSTEM_LOG) is not None
    assert runtime.audit.export(SYSTEM_LOG, tmp_path / "local").exists()
    last = stored(runtime, SYSTEM_LOG)[-1]
    assert (last["action"], last["actor"]["kind"]) == ("audit.system", "local-operator")


def test_a_caller_whom_nobody_knows_reads_nothing(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> None:
    for log_id in (tenant_id, SYSTEM_LOG):
        with request_context(request_id="r-1"), pytest.raises((AuthenticationError, PermissionDeniedError)):
            runtime.audit.export(log_id, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_logger_without_tenancy_shows_nothing(runtime: CloudRuntime, tmp_path: Path) -> None:
    logger = CloudAuditLogger(runtime.audit._store, runtime.pixeltable_config.keyring)
    for log_id in ("acme", SYSTEM_LOG):
        with pytest.raises(ConfigurationError):
            logger.export(log_id, tmp_path)


def test_a_logger_without_tenancy_believes_no_report(runtime: CloudRuntime, tenant_id: str) -> None:
    logger = CloudAuditLogger(runtime.audit._store, runtime.pixeltable_config.keyring)
    count = len(stored(runtime, tenant_id))
    with pytest.raises(ConfigurationError):
        logger.log_event("e", "alice", "r", "x", "success", {"tenant_id": tenant_id})
    assert len(stored(runtime, tenant_id)) == count


def test_an_export_of_three_times_as_much_needs_no_more_memory(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    peaks = []
    for batches in (2, 6):
        log_id = f"{tenant_id}-{batches}"
        runtime.tenants.create(log_id, plan="team")
        for _ in range(batches):
            fill(runtime, log_id, 1_000)
        runtime._installation.proofs.evidence.catch_up(log_id)
        tracemalloc.start()
        try:
            bundle = runtime.audit.export_evidence(log_id, tmp_path / log_id, format="csv")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert bundle.events >= batches * 1_000
    few, many = peaks
    # What runs beside is measured too; three times as much would be three times as much.
    assert many < 2 * few


def test_more_than_a_batch_is_waited_for(
    runtime: CloudRuntime, tenant_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "_PENDING", 3)
    fill(runtime, tenant_id, 20)
    runtime._installation.proofs.evidence.catch_up(tenant_id)
    assert runtime._installation.proofs.trees.pending(tenant_id) == []
