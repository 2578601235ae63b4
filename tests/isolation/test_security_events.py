"""Each kind of security event is in the log, with its leaf, and alarms; refusals that somebody hears do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from cloud import CloudRuntime, request_context
from cloud.audit.abuse import REFUSALS
from cloud.audit.alerts import WebhookAlerts
from cloud.audit.heads import Fault, HeadFault
from cloud.kernel.errors import QuotaExceededError, TenantIsolationError
from src.testing.samples import sample_memory
from tests.isolation.probes import Event, Onlooker, statements_of
from tests.isolation.test_refusals import EACH, Book
from tests.support.webhooks import Receiver, receiving

WITHIN_S = 20.0

Trouble = Callable[[CloudRuntime, Onlooker, str], None]


@pytest.fixture
def alarmed(runtime: CloudRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A webhook, told by the run's own sequencer."""
    with receiving() as receiver:
        alerts = WebhookAlerts(receiver.url)
        monkeypatch.setattr(runtime._installation.proofs.sequencing, "_alerts", alerts)
        yield receiver
        alerts.close()


def other_tenant(runtime: CloudRuntime, _: Onlooker, tenant_id: str) -> None:
    with request_context(tenant_id=tenant_id, roles={"service"}), pytest.raises(TenantIsolationError):
        asyncio.run(runtime.memory.store(sample_memory("alice"), {"tenant_id": "somebody-elses"}))


def failed_logins(runtime: CloudRuntime, onlooker: Onlooker, _: str) -> None:
    book = Book(runtime, onlooker)
    book.refuse(2 * EACH + 1)
    book.later()
    book.refusals.report()


def tampering(runtime: CloudRuntime, _: Onlooker, tenant_id: str) -> None:
    # How it is found has tests of its own, with databases that are tampered with.
    fault = HeadFault(tenant_id, Fault.CHANGED, 7, 9)
    runtime._installation.proofs.sequencing._tell(fault)


def refused(runtime: CloudRuntime, tenant_id: str, times: int) -> None:
    async def ask() -> None:
        for _ in range(times):
            with pytest.raises(QuotaExceededError):
                await runtime.memory.store(sample_memory("alice"), {})

    runtime.tenants.change(tenant_id, limits={"memories": 0})
    with request_context(tenant_id=tenant_id, roles={"service"}):
        asyncio.run(ask())


def quota_abuse(runtime: CloudRuntime, _: Onlooker, tenant_id: str) -> None:
    refused(runtime, tenant_id, REFUSALS + 5)


def reported(runtime: CloudRuntime, _: Onlooker, tenant_id: str) -> None:
    runtime.audit.log_security_event("door", "critical", "left open", {"tenant_id": tenant_id})


def awaited(receiver: Receiver, *, action: str, log_id: str) -> dict[str, object]:
    """The first alarm of this kind."""
    end_s = time.monotonic() + WITHIN_S
    while not (found := [got for got in receiver.got if (got["action"], got["log_id"]) == (action, log_id)]):
        assert time.monotonic() < end_s, receiver.got
        time.sleep(0.05)
    return found[0]


@pytest.mark.parametrize(
    ("trouble", "action", "in_system_log", "outcome", "reason"),
    [
        (other_tenant, "memory.store", True, "denied", "tenant_isolation:conflict"),
        (failed_logins, "security.authentication_failures", True, "denied", "repeated"),
        (tampering, "security.audit_tampering", True, "failed", "changed"),
        (quota_abuse, "security.quota_abuse", False, "denied", "quota_exceeded"),
        (reported, "security.event", False, "allowed", None),
    ],
)
def test_a_security_event_is_in_the_log_and_alarms(
    runtime: CloudRuntime,
    onlooker: Onlooker,
    alarmed: Receiver,
    tenant_id: str,
    trouble: Trouble,
    action: str,
    in_system_log: bool,
    outcome: str,
    reason: str | None,
) -> None:
    log_id = "_system" if in_system_log else tenant_id
    with onlooker.new_events() as events:
        trouble(runtime, onlooker, tenant_id)
        alarm = awaited(alarmed, action=action, log_id=log_id)
    (event,) = (event for event in events if event["event_id"] == alarm["event_id"])
    assert (event["category"], event["outcome"], event["reason"]) == ("security", outcome, reason)
    assert {name: event[name] for name in ("log_id", "action", "outcome", "reason", "counts")} == {
        name: alarm[name] for name in ("log_id", "action", "outcome", "reason", "counts")
    }
    found = onlooker.rows("SELECT leaf_index FROM audit_leaves WHERE event_id = :id", id=event["event_id"])
    assert len(found) == 1, "it is told once it is a leaf"


def test_a_tenant_that_hears_the_refusal_is_not_told_of_and_one_that_does_not_is_once(
    runtime: CloudRuntime, onlooker: Onlooker, alarmed: Receiver, tenant_id: str
) -> None:
    patient = f"{tenant_id}-patient"
    runtime.tenants.create(patient)
    refused(runtime, patient, REFUSALS // 2)
    refused(runtime, tenant_id, 2 * REFUSALS)
    awaited(alarmed, action="security.quota_abuse", log_id=tenant_id)
    runtime._installation.proofs.evidence.catch_up(tenant_id)
    runtime._installation.proofs.evidence.catch_up(patient)
    found = [e for log in (tenant_id, patient) for e in onlooker.events(log_id=log) if _is_abuse(e)]
    assert [(e["log_id"], e["details"]["meter"], e["counts"]) for e in found] == [
        (tenant_id, "memories", {"refusals": REFUSALS})
    ]


def test_a_refusal_takes_no_statement_more_for_being_counted(runtime: CloudRuntime, tenant_id: str) -> None:
    refused(runtime, tenant_id, 1)
    with statements_of(runtime._installation.engines.app) as few:
        refused(runtime, tenant_id, 10)
    with statements_of(runtime._installation.engines.app) as many:
        refused(runtime, tenant_id, REFUSALS)
    # The one event that tells of it is written by the sequencer, beside them.
    assert len(many) <= REFUSALS * len(few) / 10 + 2


def _is_abuse(event: Event) -> bool:
    return bool(event["action"] == "security.quota_abuse")
