"""Laws of what foreign code reports: recorded where it belongs, and nothing of it in the clear."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.audit import verify
from cloud.kernel.errors import AuthenticationError, InvalidFilterError, SealBrokenError, TenantIsolationError
from cloud.kernel.ids import SYSTEM_LOG, new_request_id
from cloud.keys.model import Place
from cloud.keys.sealing import unseal
from src.extensions import AuditLogger

MOMENT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
SECRETS = ("alice@example.com", "knowledge:diary", "authentication flow", "Failed login", "192.0.2.7")
_numbers = itertools.count(1)


def report_event(runtime: CloudRuntime, tenant_id: str | None) -> None:
    details: dict[str, object] = {"query": "authentication flow", "ip": "192.0.2.7"}
    runtime.audit.log_event(
        "data_access", "alice@example.com", "knowledge:diary", "search", "success", named(details, tenant_id)
    )


def report_security(runtime: CloudRuntime, tenant_id: str | None) -> None:
    details: dict[str, object] = {"user_id": "alice@example.com", "ip": "192.0.2.7"}
    runtime.audit.log_security_event("auth_failure", "warning", "Failed login", named(details, tenant_id))


def report_one_object(runtime: CloudRuntime, tenant_id: str | None) -> None:
    event: dict[str, object] = {"operation": "knowledge:diary", "user_id": "alice@example.com", "outcome": "denied"}

    async def log() -> None:
        await runtime.audit.log(named(event, tenant_id))

    asyncio.run(log())


def report_deletion(runtime: CloudRuntime, tenant_id: str | None) -> None:
    runtime.audit.log_gdpr_deletion("alice@example.com", tenant_id or "", {"conversations": 5}, MOMENT)


def report_export(runtime: CloudRuntime, tenant_id: str | None) -> None:
    runtime.audit.log_gdpr_export("alice@example.com", tenant_id or "", 18, MOMENT)


def named(details: dict[str, object], tenant_id: str | None) -> dict[str, object]:
    return details if tenant_id is None else {**details, "tenant_id": tenant_id}


REPORTS = [report_event, report_security, report_one_object, report_deletion, report_export]
SEALED_REPORTS = REPORTS[:3]
Report = Callable[[CloudRuntime, str | None], None]


def events(runtime: CloudRuntime, log_id: str, request_id: str) -> list[dict[str, Any]]:
    found = runtime.audit._store.events(log_id, since=None, until=None)
    return [event for event in found if event.get("request_id") == request_id]


def reported(
    runtime: CloudRuntime, report: Report, tenant_id: str | None, *, ambient: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """What `report` left in each log, when it named `tenant_id` and ran within `ambient`."""
    request_id = new_request_id()
    with request_context(tenant_id=ambient, request_id=request_id):
        report(runtime, tenant_id)
    logs = {SYSTEM_LOG, *(name for name in (tenant_id, ambient) if name)}
    return {log_id: found for log_id in logs if (found := events(runtime, log_id, request_id))}


def caller(runtime: CloudRuntime, tenant_id: str, how: str, request_id: str) -> AbstractContextManager[object]:
    """A caller of the tenant, as the host application says or as its API key does."""
    match how:
        case "key":
            key = runtime.api_keys.create(tenant_id, roles={"service"})
            return request_context(authorization=f"Bearer {key}", request_id=request_id)
        case "operator":
            return request_context(
                tenant_id=tenant_id, operator="local-operator:7", roles={"operator"}, request_id=request_id
            )
        case _:
            return request_context(tenant_id=tenant_id, request_id=request_id)


def opened(runtime: CloudRuntime, event: dict[str, Any], *, subject_id: str | None) -> Any:
    """What was said, with the key of the person, or of the log."""
    keyring, log_id = runtime.pixeltable_config.keyring, event["log_id"]
    if subject_id is None:
        key = keyring.tenant_key(log_id).key
    else:
        person = keyring.subject_key(log_id, subject_id)
        assert person is not None
        key = person.key
    place = Place(log_id, subject_id or "", event["event_id"], "audit_text")
    return json.loads(unseal(key, bytes.fromhex(event["details"]["sealed"]), place=place))


def test_it_offers_the_published_protocol(runtime: CloudRuntime) -> None:
    assert isinstance(runtime.audit, AuditLogger)


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("how", ["ambient", "named"])
def test_a_report_ends_in_its_tenants_log_with_nothing_in_the_clear(
    runtime: CloudRuntime, tenant_id: str, report: Report, how: str
) -> None:
    runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice@example.com", create=True)
    ambient = tenant_id if how == "ambient" else None
    # The two reports on personal data name their tenant in an argument of its own.
    of_person = report in (report_deletion, report_export)
    found = reported(runtime, report, tenant_id if of_person or ambient is None else None, ambient=ambient)
    ((log_id, (event,)),) = found.items()
    assert log_id == tenant_id
    text = json.dumps(event, ensure_ascii=False)
    for secret in SECRETS:
        assert secret not in text
    person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice@example.com", create=False)
    assert person is not None
    assert person.subject_id in (event["subject_id"], event["actor"]["id"])


@pytest.mark.parametrize("report", SEALED_REPORTS)
def test_what_was_said_opens_under_the_persons_key_and_under_no_other(
    runtime: CloudRuntime, tenant_id: str, report: Report
) -> None:
    ((_, (event,)),) = reported(runtime, report, tenant_id).items()
    person = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice@example.com", create=False)
    assert person is not None
    said = json.dumps(opened(runtime, event, subject_id=person.subject_id))
    assert "diary" in said or "Failed login" in said
    with pytest.raises(SealBrokenError):
        opened(runtime, event, subject_id=None)


def test_what_names_no_person_opens_under_the_tenants_key(runtime: CloudRuntime, tenant_id: str) -> None:
    def report(runtime: CloudRuntime, tenant_id: str | None) -> None:
        runtime.audit.log_security_event("rate_limit", "info", "Too many", {"tenant_id": tenant_id, "burst": 7})

    ((_, (event,)),) = reported(runtime, report, tenant_id).items()
    assert opened(runtime, event, subject_id=None) == {
        "event_type": "rate_limit",
        "message": "Too many",
        "details": {"tenant_id": tenant_id, "burst": 7},
    }
    assert event["actor"] == {"kind": None, "id": None, "roles": []}


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("tenant_id", ["ghost", "_system", "", "ACME", None])
def test_a_report_without_a_valid_tenant_goes_to_the_system_log_and_names_nobody(
    runtime: CloudRuntime, report: Report, tenant_id: str | None
) -> None:
    ((log_id, (event,)),) = reported(runtime, report, tenant_id).items()
    assert log_id == SYSTEM_LOG
    assert (event["subject_id"], event["actor"]["id"]) == (None, None)
    for secret in SECRETS:
        assert secret not in json.dumps(event, ensure_ascii=False)
    if report in SEALED_REPORTS:
        assert opened(runtime, event, subject_id=None)


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("how", ["tenant", "key", "operator"])
def test_a_caller_of_one_tenant_cannot_write_into_anothers_log(
    runtime: CloudRuntime, tenant_id: str, report: Report, how: str
) -> None:
    other = runtime.tenants.create(f"foreign-{next(_numbers)}").tenant_id
    before = len(list(runtime.audit._store.events(other, since=None, until=None)))
    request_id = new_request_id()
    with caller(runtime, tenant_id, how, request_id), pytest.raises(TenantIsolationError) as refused:
        report(runtime, other)
    assert refused.value.reason == "conflict"
    (event,) = events(runtime, SYSTEM_LOG, request_id)
    assert (event["category"], event["outcome"]) == ("security", "denied")
    assert (event["reason"], event["details"]["severity"]) == ("tenant_isolation:conflict", "critical")
    assert events(runtime, tenant_id, request_id) == []
    assert len(list(runtime.audit._store.events(other, since=None, until=None))) == before
    for name in (tenant_id, other):
        assert runtime.pixeltable_config.keyring.resolve_subject(name, "alice@example.com", create=False) is None


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("how", ["tenant", "key", "operator"])
def test_a_caller_whose_tenant_is_named_too_writes_into_its_log(
    runtime: CloudRuntime, tenant_id: str, report: Report, how: str
) -> None:
    request_id = new_request_id()
    with caller(runtime, tenant_id, how, request_id):
        report(runtime, tenant_id)
    assert len(events(runtime, tenant_id, request_id)) == 1
    assert events(runtime, SYSTEM_LOG, request_id) == []


@pytest.mark.parametrize("report", SEALED_REPORTS)
def test_a_credential_alone_names_the_tenant_of_a_report(runtime: CloudRuntime, tenant_id: str, report: Report) -> None:
    request_id = new_request_id()
    with caller(runtime, tenant_id, "key", request_id):
        report(runtime, None)
    assert len(events(runtime, tenant_id, request_id)) == 1


@pytest.mark.parametrize("report", [report for report in REPORTS if report is not report_security])
@pytest.mark.parametrize("credential", ["Bearer lc_0123456789ab_" + "0" * 64, "Bearer what", ""])
def test_a_credential_that_does_not_hold_reports_nothing(
    runtime: CloudRuntime, tenant_id: str, report: Report, credential: str
) -> None:
    request_id = new_request_id()
    with request_context(authorization=credential, request_id=request_id), pytest.raises(AuthenticationError):
        report(runtime, tenant_id)
    assert events(runtime, tenant_id, request_id) == []
    (event,) = events(runtime, SYSTEM_LOG, request_id)
    assert (event["category"], event["outcome"]) == ("security", "denied")
    assert runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice@example.com", create=False) is None


def test_what_is_reported_of_a_credential_that_does_not_hold_is_kept_by_the_system(
    runtime: CloudRuntime, tenant_id: str
) -> None:
    request_id = new_request_id()
    with request_context(authorization="Bearer what", request_id=request_id):
        report_security(runtime, tenant_id)
    assert events(runtime, tenant_id, request_id) == []
    found = events(runtime, SYSTEM_LOG, request_id)
    assert sorted((event["outcome"], "sealed" in event["details"]) for event in found) == [  # type: ignore[operator]
        ("allowed", True),
        ("denied", False),
    ]


@pytest.mark.parametrize("named", ["", 5, b"acme", ["acme"]])
async def test_a_caller_that_names_its_tenant_wrongly_reports_nothing(
    runtime: CloudRuntime, tenant_id: str, named: object
) -> None:
    with request_context(tenant_id=tenant_id), pytest.raises(AuthenticationError) as refused:
        await runtime.audit.log({"operation": "memory.store", "tenant_id": named})
    assert refused.value.reason == "malformed_context"


@pytest.mark.parametrize("context", [nullcontext(), request_context(request_id="r-1")])
async def test_the_guides_call_records_before_it_returns(
    runtime: CloudRuntime, tenant_id: str, context: AbstractContextManager[object]
) -> None:
    await runtime.audit.log({"operation": "memory.store", "tenant_id": tenant_id, "user_id": "alice"})
    event = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-1]
    assert (event["category"], event["outcome"]) == ("external", "allowed")


async def test_reports_of_concurrent_tasks_stay_apart(runtime: CloudRuntime) -> None:
    names = [runtime.tenants.create(f"foreign-{next(_numbers)}").tenant_id for _ in range(3)]

    async def one(name: str) -> None:
        with request_context(tenant_id=name, roles={"service"}):
            for _ in range(3):
                await runtime.audit.log({"operation": name, "user_id": "alice"})

    await asyncio.gather(*(one(name) for name in names))
    for name in names:
        found = [e for e in runtime.audit._store.events(name, since=None, until=None) if e["category"] == "external"]
        assert len(found) == 3
        for event in found:
            subject = event["actor"]["id"]  # type: ignore[index]
            assert opened(runtime, event, subject_id=subject) == {"operation": name}


def test_the_outcome_and_the_severity_are_words_of_ours(runtime: CloudRuntime, tenant_id: str) -> None:
    runtime.audit.log_event("e", "a", "r", "x", "alice said no", {"tenant_id": tenant_id})
    runtime.audit.log_security_event("e", "alice@example.com", "m", {"tenant_id": tenant_id})
    last, security = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-2:]
    assert last["outcome"] == "failed"
    assert security["details"]["severity"] == "unspecified"  # type: ignore[index]
    assert "alice" not in json.dumps([last, security])


def test_counts_of_a_deletion_keep_their_categories(runtime: CloudRuntime, tenant_id: str) -> None:
    runtime.audit.log_gdpr_deletion("bob", tenant_id, {"meetings": 1, "bob@example.com": 2}, MOMENT)
    runtime.audit.log_gdpr_export("bob", tenant_id, 18, MOMENT)
    deletion, export = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-2:]
    assert (deletion["action"], deletion["counts"]) == ("gdpr.erase", {"meetings": 1, "other": 2})
    assert (export["action"], export["counts"]) == ("gdpr.export", {"total_items": 18})
    assert deletion["details"] == {"reported_at": MOMENT.isoformat()}
    assert runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "bob", create=False) is None, (
        "a report that a person is gone made the person a subject"
    )


@pytest.mark.parametrize(
    "details",
    [
        {"note": "\ud800 \0 \u202e"},
        {"note": float("nan")},
        {"note": object()},
        {"note": b"bytes"},
        {("a", "tuple"): 1},
        {"deep": [[[[[[["x"]]]]]]]},
        {"note": "x" * 100_000},
    ],
)
def test_whatever_foreign_code_says_is_recorded(
    runtime: CloudRuntime, tenant_id: str, details: dict[Any, object]
) -> None:
    runtime.audit.log_event("e\0", "a\ud800", "r", "x", "success", {**details, "tenant_id": tenant_id})
    event = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-1]
    said = opened(runtime, event, subject_id=event["actor"]["id"])  # type: ignore[index]
    assert said["event_type"] == "e\0"


def test_what_cannot_be_written_down_is_refused_and_not_lost_silently(runtime: CloudRuntime, tenant_id: str) -> None:
    loop: dict[str, object] = {"tenant_id": tenant_id}
    loop["loop"] = loop
    with pytest.raises(InvalidFilterError) as refused:
        runtime.audit.log_event("e", "a", "r", "x", "success", loop)
    assert refused.value.__cause__ is None
    with pytest.raises(InvalidFilterError):
        runtime.audit.log_gdpr_export("bob", tenant_id, 2**60, MOMENT)


@pytest.mark.parametrize(
    ("details", "counts"),
    [
        ({}, {}),
        ({"content": "x", "deep": [{"query": "y"}]}, {"content_keys": 2}),
        ({"note": object()}, {"not_json": 1}),
        ({"note": "x" * 20_000}, {"oversized_bytes"}),
        ({"note": "x" * 3_000_000}, {"oversized_bytes", "cut_bytes"}),
    ],
)
def test_what_foreign_code_should_not_say_is_sealed_and_counted(
    runtime: CloudRuntime, tenant_id: str, details: dict[str, object], counts: Any
) -> None:
    runtime.audit.log_event("e", "alice", "r", "x", "success", {**details, "tenant_id": tenant_id})
    event = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-1]
    assert event["counts"] == counts if isinstance(counts, dict) else set(event["counts"]) == counts  # type: ignore[call-overload]
    assert event["details"].keys() == {"sealed"}  # type: ignore[attr-defined]
    assert len(json.dumps(event)) < verify.MAX_LINE_BYTES
    assert opened(runtime, event, subject_id=event["actor"]["id"])["event_type"] == "e"  # type: ignore[index]


HUGE = [
    pytest.param({f"{number:0300}": "x" for number in range(2_000)}, id="names"),
    pytest.param({"k" * 600_000: 1}, id="one-name"),
    pytest.param({str(number): "\0" * 1_000 for number in range(2_000)}, id="texts"),
    pytest.param({str(number): "\ud800" * 1_000 for number in range(2_000)}, id="surrogates"),
]


@pytest.mark.parametrize("said", HUGE)
async def test_whatever_the_size_of_a_report_its_log_can_be_exported_and_verified(
    runtime: CloudRuntime, tenant_id: str, said: dict[str, object], tmp_path: Path
) -> None:
    await runtime.audit.log({**said, "tenant_id": tenant_id, "user_id": "alice"})
    event = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-1]
    assert event["counts"].keys() == {"oversized_bytes", "cut_bytes", "cut_fields"}  # type: ignore[attr-defined]
    assert event["counts"]["cut_fields"] == len(said)  # type: ignore[index]
    assert opened(runtime, event, subject_id=event["actor"]["id"]) == {"cut": True, "fields": len(said)}  # type: ignore[index]
    bundle = runtime.audit.export_evidence(tenant_id, tmp_path / "log")
    assert verify.verify_bundle(bundle.directory, key=runtime.audit.verifier_key(tenant_id)).origin_established


def test_counts_of_however_many_names_are_exported_and_verified(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    letters = "abcdefghij"
    counts = {"kind_" * 10 + "".join(letters[int(digit)] for digit in str(number)): 1 for number in range(25_000)}
    runtime.audit.log_gdpr_deletion("bob", tenant_id, counts, MOMENT)
    event = list(runtime.audit._store.events(tenant_id, since=None, until=None))[-1]
    assert sum(event["counts"].values()) == 25_000  # type: ignore[attr-defined]
    bundle = runtime.audit.export_evidence(tenant_id, tmp_path / "log")
    assert verify.verify_bundle(bundle.directory, key=runtime.audit.verifier_key(tenant_id)).origin_established
