"""The leak test on the run's own installation: it passes, is recorded, and removes what it made."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.kernel.errors import ConfigurationError, ErasureIncompleteError, PermissionDeniedError
from cloud.kernel.scope import Role
from cloud.leaktest.canaries import Canaries, Canary, Owner, new_word
from cloud.leaktest.cast import PREFIX, new_companies, new_draft
from cloud.leaktest.logs import watched_logs
from cloud.leaktest.paths import unclassified
from cloud.leaktest.removal import leftover_tenants, remove
from cloud.leaktest.report import Check, Findings, Report
from cloud.leaktest.service import Size
from cloud.memory.materializer import placement_lock
from cloud.tenancy.model import TenantState
from cloud.tenancy.placements import own_placement
from tests.isolation.probes import Onlooker

SMALL = Size(tenants=2, people=2, rounds=1)


class _Killed(BaseException):
    """A process that ends here, as far as the code after it is concerned."""


def _die() -> None:
    raise _Killed


@pytest.fixture
def onlooker(runtime: CloudRuntime) -> Onlooker:
    return Onlooker(runtime)


async def run(runtime: CloudRuntime, size: Size = SMALL, **given: Any) -> Report:
    return await asyncio.to_thread(lambda: runtime.leak_test.run(size, **given))


def unclosed_tenants(runtime: CloudRuntime) -> list[str]:
    return [
        tenant.tenant_id
        for tenant in runtime.tenants.list()
        if tenant.tenant_id.startswith(PREFIX) and tenant.state is not TenantState.CLOSED
    ]


def is_closed(runtime: CloudRuntime, tenant_id: str) -> bool:
    return {tenant.tenant_id: tenant.state for tenant in runtime.tenants.list()}[tenant_id] is TenantState.CLOSED


async def left_by_a_killed_run(runtime: CloudRuntime) -> str:
    """A tenant of a run that came no further than this."""
    (company, _) = new_companies(2, 2)
    runtime.tenants.create(company.tenant_id)
    runtime.api_keys.create(company.tenant_id, roles=["service"])
    for person in company.people:
        with request_context(tenant_id=company.tenant_id, roles={"service"}):
            await runtime.memory.store(new_draft(person, random.Random(1)).memory, {})
    return company.tenant_id


async def test_this_installation_leaks_nothing_and_keeps_nothing_of_the_test_or_of_a_killed_one(
    runtime: CloudRuntime, onlooker: Onlooker
) -> None:
    killed, suspended, half_closed = [await left_by_a_killed_run(runtime) for _ in range(3)]
    runtime.tenants.suspend(suspended)
    failpoints.arm("close.frozen", _die)
    with pytest.raises(_Killed):
        runtime.closing.close(half_closed, confirmed=True)
    failpoints.disarm_all()
    with onlooker.new_events() as events:
        report = await run(runtime, seed=7)
    assert report.leaks == ()
    assert report.leftovers == ()
    tried = {check for _, check in report.attempts}
    assert tried == set(Check) - {Check.CLASSIFIED}
    assert all(report.attempts[path, Check.CONTROL] for path in ("memory.retrieve", "memory.get_by_id"))
    assert unclosed_tenants(runtime) == []
    for tenant_id in (killed, suspended, half_closed, *report.tenants):
        assert is_closed(runtime, tenant_id)
        assert onlooker.ledger(tenant_id) == 0
        assert runtime.pixeltable_config.keyring.subjects(tenant_id) == ()
        assert runtime.api_keys.list(tenant_id) == []
    placements = {tenant.placement for tenant in runtime.tenants.list() if tenant.tenant_id in report.tenants}
    assert own_placement(report.tenants[-1]) in placements
    assert any(placement.startswith("pool") for placement in placements)
    intent, outcome = (event for event in events if event["action"].startswith("leak_test."))
    assert (intent["action"], intent["details"]["tenants"]) == ("leak_test.run.step", list(report.tenants))
    assert (outcome["action"], outcome["outcome"], outcome["reason"]) == ("leak_test.run", "allowed", None)
    assert outcome["counts"] == {"attempts": report.total, "leaks": 0, "leftovers": 0}
    assert intent["actor"] == outcome["actor"]


async def test_an_interrupted_run_removes_what_it_made(
    runtime: CloudRuntime, onlooker: Onlooker, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def interrupt(title: str, done: int, _: int) -> None:
        made.extend(unclosed_tenants(runtime))
        if title == "reading one's own":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await run(runtime, progress=interrupt)
    assert made
    assert all(is_closed(runtime, tenant_id) and onlooker.ledger(tenant_id) == 0 for tenant_id in made)


async def test_only_an_operator_runs_it_and_in_bounds_and_one_at_a_time(
    runtime: CloudRuntime, tenant_id: str, onlooker: Onlooker
) -> None:
    with request_context(tenant_id=tenant_id, roles={Role.TENANT_ADMIN.value}), pytest.raises(PermissionDeniedError):
        await run(runtime)
    with pytest.raises(ConfigurationError, match="2 to 10 tenants"):
        await run(runtime, Size(tenants=1))
    with placement_lock(onlooker.installation.engines.maintenance, "leak-test", wait_s=0) as held:
        assert held
        with pytest.raises(ConfigurationError, match="another leak test"):
            await run(runtime)
    assert unclosed_tenants(runtime) == []


async def test_what_cannot_be_closed_is_named_and_closed_by_the_next_run(
    runtime: CloudRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = await left_by_a_killed_run(runtime)

    def refuse(*_: object, **__: object) -> None:
        raise ErasureIncompleteError(("control.memories",))

    with monkeypatch.context() as broken:
        broken.setattr(runtime.closing, "close", refuse)
        assert await remove(runtime, killed) == [f"{killed} is not closed (erasure_incomplete)"]
    assert leftover_tenants(runtime) == [killed]
    assert await remove(runtime, killed) == []
    assert is_closed(runtime, killed)


def test_a_canary_in_a_log_line_is_a_leak_and_the_logs_are_as_before() -> None:
    canaries, findings = Canaries(), Findings()
    word, root, log = new_word(), logging.getLogger(), logging.getLogger("cloud.somewhere")
    canaries.plant(Canary(Owner("t", "u"), "content", word))
    before = (root.level, list(root.handlers), [handler.level for handler in root.handlers])
    with watched_logs(canaries, findings):
        log.debug("query %s", word)
        log.info("harmless")
    assert (root.level, list(root.handlers), [handler.level for handler in root.handlers]) == before
    (leak,) = findings.leaks
    assert (leak.path, leak.check, leak.how) == ("log", Check.RECORDS, "a line of cloud.somewhere shows content")


def test_a_path_that_nobody_classified_fails_the_run(runtime: CloudRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(runtime.memory), "peek", lambda self, user_id: [user_id], raising=False)
    assert list(unclassified(runtime)) == ["memory.peek"]
