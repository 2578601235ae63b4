"""`LeakTest`: makes tenants of its own, sends canaries through every path of reading, and removes all of it again."""

from __future__ import annotations

import asyncio
import random
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cloud.audit.model import AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import Role
from cloud.leaktest import reading, tampering, together, writing
from cloud.leaktest.attack import Attack
from cloud.leaktest.canaries import Canaries
from cloud.leaktest.cast import MOST_PEOPLE, MOST_TENANTS, Company, new_companies, new_draft, plant_names
from cloud.leaktest.logs import watched_logs
from cloud.leaktest.paths import stale, unclassified
from cloud.leaktest.ports import Served
from cloud.leaktest.removal import leftover_tenants, remove
from cloud.leaktest.report import Check, Findings, Report
from cloud.memory.materializer import placement_lock
from cloud.storage.engine import ControlEngine
from cloud.tenancy.administration import Administration
from cloud.usage.model import Meter

_LOCK: Final = "leak-test"
"""Name under which one leak test at a time holds a lock; no placement is called so."""
_MEMORIES: Final = 3
MOST_ROUNDS: Final = 100
_ROLES: Final = (Role.SERVICE, Role.TENANT_ADMIN, Role.AUDITOR)

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how many steps are done, and how many there are."""
Step = tuple[str, Callable[[Attack], Awaitable[None]]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much a leak test does.

    Attributes:
        tenants: 2 to 10.
        people: In each tenant, 2 to 20.
        rounds: Of many callers at once, 1 to 100.
    """

    tenants: int = 4
    people: int = 3
    rounds: int = 3

    def check(self) -> None:
        """Let only what can be run pass.

        Raises:
            ConfigurationError: A number is out of range.
        """
        for name, value, least, most in (
            ("tenants", self.tenants, 2, MOST_TENANTS),
            ("people", self.people, 2, MOST_PEOPLE),
            ("rounds", self.rounds, 1, MOST_ROUNDS),
        ):
            if not least <= value <= most:
                raise ConfigurationError(f"a leak test takes {least} to {most} {name}")


class LeakTest:
    """Tests a running installation, in tenants of its own.

    Timing is out of scope: how long an answer takes may tell something that this test does not see.

    Args:
        served: The installation.
        admissions: Lets operators in.
        audit: Records that it was run.
        engine: Holds the lock of the one that runs.
    """

    def __init__(
        self,
        served: Served,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        engine: ControlEngine,
    ) -> None:
        self._served = served
        self._admissions = admissions
        self._audit = audit
        self._engine = engine

    @telemetry.operation()
    def run(self, size: Size | None = None, *, seed: int | None = None, progress: Progress = lambda *_: None) -> Report:
        """Run it to its end; its tenants are removed when this returns, also if it fails or is interrupted.

        Not to be called on a thread that runs an event loop.

        Args:
            size: How much it does.
            seed: What decides the order of its attempts; drawn when left out. Names and canaries never depend on it.
            progress: Is told how far it is.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The size is out of range, or another leak test is running.
            ProviderUnavailableError: A part of the installation did not answer, which says nothing about leaks.
        """
        size = size or Size()
        draft = self._admissions.operate(Action.LEAK_TEST)
        with recorded_failure(self._audit, draft):
            size.check()
            with placement_lock(self._engine, _LOCK, wait_s=0.0) as alone:
                if not alone:
                    raise ConfigurationError("another leak test is running on this installation; wait for its end")
                report = self._alone(size, secrets.randbits(32) if seed is None else seed, draft, progress)
        counts = {"attempts": report.total, "leaks": len(report.leaks), "leftovers": len(report.leftovers)}
        reason = None if report.tight else "leaked"
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, reason=reason, counts=counts)
        return report

    def _alone(self, size: Size, seed: int, draft: AuditDraft, progress: Progress) -> Report:
        begun_s, begun_at = time.monotonic(), self._served.pixeltable_config.clock()
        companies = new_companies(size.tenants, size.people)
        self._record_intent(draft, companies)
        left = asyncio.run(self._removed(leftover_tenants(self._served)))
        findings, canaries = Findings(), Canaries()
        for name in unclassified(self._served):
            findings.leaked(name, Check.CLASSIFIED, "unclassified path: cloud/leaktest/paths.py says nothing of it")
        for name in stale(self._served):
            findings.leaked(name, Check.CLASSIFIED, "cloud/leaktest/paths.py names what the installation has not")
        try:
            with (
                tempfile.TemporaryDirectory(prefix="luminescent-leaktest-") as directory,
                watched_logs(canaries, findings),
            ):
                attack = Attack(self._served, companies, canaries, findings, random.Random(seed), Path(directory))  # noqa: S311 - an order, no secret
                asyncio.run(self._attack(attack, size, begun_at, progress))
        finally:
            left += asyncio.run(self._removed([company.tenant_id for company in companies]))
        return Report(
            tenants=tuple(company.tenant_id for company in companies),
            seed=seed,
            attempts=dict(findings.attempts),
            leaks=findings.leaks,
            leftovers=tuple(left),
            took_s=time.monotonic() - begun_s,
        )

    async def _removed(self, tenant_ids: list[str]) -> list[str]:
        return [fault for tenant_id in tenant_ids for fault in await remove(self._served, tenant_id)]

    def _record_intent(self, draft: AuditDraft, companies: list[Company]) -> None:
        intent = self._audit.draft(
            None,
            Action.LEAK_TEST_STEP,
            category=Category.ADMINISTRATION,
            details={"tenants": [company.tenant_id for company in companies]},
        )
        intent = replace(intent, actor=draft.actor, request_id=draft.request_id)
        self._audit.record(SYSTEM_LOG, intent, Outcome.ALLOWED)

    async def _attack(self, attack: Attack, size: Size, begun_at: datetime, progress: Progress) -> None:
        steps = [*_opening(), *_rounds(size.rounds), *_closing(begun_at)]
        for number, (title, step) in enumerate(steps):
            progress(title, number, len(steps))
            await step(attack)
        progress("cleaning up", len(steps), len(steps))


def _opening() -> list[Step]:
    return [
        ("setting up tenants", _set_up),
        ("reading one's own", reading.control),
        ("reading the neighbours'", reading.neighbours),
        ("reading what waits for Pixeltable", together.waiting),
        ("moving everything into Pixeltable", _materialize),
        ("reading one's own, cold", reading.control),
        ("reading the neighbours', cold", reading.neighbours),
        ("reading colleagues'", reading.colleagues),
        ("reading everybody's", reading.not_everybody),
        ("foreign ids", reading.foreign_ids),
        ("hostile names, ids and questions", tampering.hostile_input),
        ("hostile filters", tampering.hostile_filters),
        ("foreign cursors", tampering.foreign_cursors),
        ("credentials of others", tampering.credentials),
        ("access to others", tampering.may_not_access),
        ("changing one's own", writing.own_changes),
        ("storing what others stored", writing.duplicates),
        ("storing under others' keys", writing.idempotency_keys),
    ]


def _rounds(rounds: int) -> list[Step]:
    def one(number: int) -> Step:
        async def work(attack: Attack) -> None:
            await together.together(attack, cold=number % 2 == 1)

        return f"many callers at once, {number + 1} of {rounds}", work

    return [one(number) for number in range(rounds)]


def _closing(begun_at: datetime) -> list[Step]:
    async def read_records(attack: Attack) -> None:
        await together.records(attack, begun_at)

    async def gone_cold(attack: Attack) -> None:
        await _materialize(attack)
        await together.gone(attack)

    return [
        ("deleting and erasing", together.remove_some),
        ("looking for what is gone", together.gone),
        ("looking for what is gone, cold", gone_cold),
        ("reading one's own again", reading.control),
        ("reading the audit logs", read_records),
    ]


async def _set_up(attack: Attack) -> None:
    served = attack.served
    for company in attack.companies:
        limits: dict[str, int | None] = {meter.value: None for meter in Meter}
        # One of them in a table of its own, the others in tables that they share.
        placement = "own" if company is attack.companies[-1] else "pooled"
        served.tenants.create(company.tenant_id, limits=limits, placement=placement)
        for role in _ROLES:
            company.keys[role] = served.api_keys.create(company.tenant_id, roles=[role.value])
        first = company.people[0].owner.user_id
        company.keys[Role.MEMBER] = served.api_keys.create(company.tenant_id, roles=[Role.MEMBER.value], user_id=first)
        plant_names(attack.canaries, company)
    for company, person in attack.people():
        for _ in range(_MEMORIES):
            draft = new_draft(person, attack.rng)
            await together.store(attack, company.caller(Role.SERVICE), person, draft)
    await reading.learn_subjects(attack)


async def _materialize(attack: Attack) -> None:
    await attack.served.drain()
    attack.served.pixeltable_config.hot.clear()
