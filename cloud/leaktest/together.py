"""Checks of many callers at once on one provider, of what is gone, and of the records that all of it left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloud.kernel.errors import LuminescentError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG, new_memory_id, new_request_id
from cloud.kernel.scope import Role
from cloud.leaktest.attack import Attack, living
from cloud.leaktest.canaries import new_word
from cloud.leaktest.cast import Caller, Company, Draft, Person, new_draft, question
from cloud.leaktest.exposure import Answer
from cloud.leaktest.paths import PATHS, Arguments, Asked, ReadPath, Shows
from cloud.leaktest.report import Check

_TASKS: Final = 60
_THREADS: Final = 4
_WRITES_IN: Final = 6
_MOST: Final = 1_000
_STORE: Final = "memory.store"
_COMPARED: Final = ("category", "action", "outcome", "reason", "resource_ids", "counts", "details", "subject_id")

AUDIT: Final = next(path for path in PATHS if path.name == "audit.events")


@dataclass(frozen=True, slots=True)
class _Task:
    """What one of many does, decided before any of them begins."""

    company: Company
    person: Person
    caller: Caller
    path: ReadPath | None
    arguments: Arguments
    draft: Draft | None


async def together(attack: Attack, *, cold: bool) -> None:
    """Many callers of all tenants at once, in tasks and in threads, each find their own and nothing else.

    Args:
        attack: The run.
        cold: Whether nobody's memories are held open when it begins.
    """
    if cold:
        attack.served.pixeltable_config.hot.clear()
    tasks = [_planned(attack) for _ in range(_TASKS)]
    in_threads, in_tasks = tasks[: _TASKS // 2], tasks[_TASKS // 2 :]
    shares = [in_threads[at::_THREADS] for at in range(_THREADS)]
    await asyncio.gather(
        # Each thread has a loop of its own; what a provider keeps for a caller must not be seen across them.
        *(asyncio.to_thread(asyncio.run, _all(attack, share)) for share in shares),
        _all(attack, in_tasks),
    )
    await inventory(attack, Check.TOGETHER)


async def inventory(attack: Attack, check: Check) -> None:
    """Every memory that was stored is its owner's, and everybody has exactly theirs: no write landed elsewhere."""
    for company, person in attack.people():
        attack.findings.tried(_STORE, check)
        with company.caller(Role.SERVICE).calling(new_request_id()):
            found = await attack.served.memory.search(person.owner.user_id, {}, limit=_MOST)
        strange = {memory.id for memory in found} - person.memories.keys()
        missing = person.memories.keys() - {memory.id for memory in found}
        if strange or missing:
            example = f"{len(strange)} too many and {len(missing)} too few in {company.tenant_id}"
            attack.findings.leaked(_STORE, check, "what was stored is not with its owner", example)


async def remove_some(attack: Attack) -> None:
    """Delete a memory of everybody, and erase the last person of every tenant; nobody may see them from now on."""
    for company in attack.companies:
        for person in living(company.people):
            with company.caller(Role.SERVICE).calling(new_request_id()):
                # One that is shown at this moment: what is held in memory must let go of it too.
                shown = {
                    memory.id for memory in await attack.served.memory.search(person.owner.user_id, {}, limit=_MOST)
                }
                memory_id = attack.rng.choice([one for one in person.memories if one in shown] or list(person.memories))
                await attack.served.memory.delete(memory_id)
            attack.canaries.bury_memory(memory_id)
            person.deleted.append(memory_id)
            del person.memories[memory_id]
        await erase(attack, company, company.people[-1])


async def erase(attack: Attack, company: Company, person: Person) -> None:
    """Erase a person; nobody may see anything of them from now on."""
    with company.caller(Role.TENANT_ADMIN).calling(new_request_id()):
        await attack.served.gdpr.delete_user_data(person.owner.user_id, company.tenant_id, confirmed=True)
    attack.canaries.bury_person(person.owner)
    person.deleted += person.memories
    person.memories.clear()
    person.erased = True


async def gone(attack: Attack) -> None:
    """What was deleted or erased is found by no path, not by its own people either, and looks absent."""
    for company, person in attack.people():
        for path in attack.paths(Asked.PERSON):
            given = Arguments(company.tenant_id, user_id=person.owner.user_id, query=question(attack.rng))
            if not person.erased:
                await attack.read(path, Check.GONE, company, given)
                continue
            absent = Arguments(company.tenant_id, user_id=new_word(), query=given.query)
            await attack.compare(path, Check.GONE, company, given, absent, attack.caller(company, path))
        for path in attack.paths(Asked.MEMORY):
            # Others may say of a deleted memory that it was, as long as it can be brought back.
            for memory_id in person.deleted if path.shows is Shows.CONTENT else ():
                given = Arguments(company.tenant_id, memory_id=memory_id)
                absent = Arguments(company.tenant_id, memory_id=new_memory_id())
                await attack.compare(path, Check.GONE, company, given, absent, attack.caller(company, path))


async def records(attack: Attack, since: datetime) -> None:
    """No word in any audit event of the run, no id in another tenant's, and none that tells foreign from absent."""
    for company in attack.companies:
        attack.findings.tried(AUDIT.name, Check.RECORDS)
        with company.holder(Role.AUDITOR).calling(new_request_id()):
            events = await asyncio.to_thread(attack.served.audit.events, company.tenant_id)
        _judge_events(attack, events, company.tenant_id)
        _compare_events(attack, events, company.tenant_id)
    attack.findings.tried(AUDIT.name, Check.RECORDS)
    events = await asyncio.to_thread(attack.served.audit.events, SYSTEM_LOG, since=since)
    _judge_events(attack, events, SYSTEM_LOG)


def _judge_events(attack: Attack, events: list[dict[str, object]], log_id: str) -> None:
    attack.judge(AUDIT, Check.RECORDS, Answer(new_request_id(), value=events), log_id, None)


def _compare_events(attack: Attack, events: list[dict[str, object]], tenant_id: str) -> None:
    by_request: dict[str, list[object]] = {}
    for event in events:
        seen = {name: event.get(name) for name in _COMPARED}
        by_request.setdefault(str(event.get("request_id")), []).append(seen)
    for pair in attack.alike:
        if pair.tenant_id == tenant_id:
            attack.findings.tried(pair.path, Check.RECORDS)
            if by_request.get(pair.foreign) != by_request.get(pair.absent):
                how = "its audit event for what is another's differs from the one for what is not there"
                attack.findings.leaked(pair.path, Check.RECORDS, how, f"requests {pair.foreign} and {pair.absent}")


def _planned(attack: Attack) -> _Task:
    company = attack.rng.choice(attack.companies)
    person = attack.rng.choice(living(company.people))
    memory_id, word = attack.rng.choice(list(person.memories.items()))
    arguments = Arguments(
        company.tenant_id, user_id=person.owner.user_id, memory_id=memory_id, query=question(attack.rng, word)
    )
    if attack.rng.randrange(_WRITES_IN) == 0:
        return _Task(company, person, company.caller(Role.SERVICE), None, arguments, new_draft(person, attack.rng))
    paths = [path for path in attack.quick_paths(Asked.PERSON, Asked.MEMORY) if not path.changes]
    path = attack.rng.choice(paths)
    return _Task(company, person, attack.caller(company, path), path, arguments, None)


async def _all(attack: Attack, tasks: list[_Task]) -> None:
    await asyncio.gather(*(_do(attack, task) for task in tasks))


async def _do(attack: Attack, task: _Task) -> None:
    if task.draft is not None:
        await store(attack, task.caller, task.person, task.draft)
    elif task.path is not None:
        given, path = task.arguments, task.path
        answer = await attack.read(path, Check.TOGETHER, task.company, given, caller=task.caller)
        if path.shows is Shows.CONTENT and not answer.memories():
            how = "showed somebody nothing of their own while others were calling"
            attack.findings.leaked(path.name, Check.TOGETHER, how)


async def waiting(attack: Attack) -> None:
    """What is accepted and not in Pixeltable yet is its owner's alone, read cold."""
    paths = [path for path in attack.quick_paths(Asked.PERSON, Asked.MEMORY) if not path.changes]
    for company in attack.companies:
        person = attack.rng.choice(living(company.people))
        draft = new_draft(person, attack.rng)
        await store(attack, company.caller(Role.SERVICE), person, draft)
        memory_id, word = list(person.memories.items())[-1]
        for reader in attack.companies:
            attack.served.pixeltable_config.hot.clear()
            asked = question(attack.rng, word)
            given = Arguments(reader.tenant_id, user_id=person.owner.user_id, memory_id=memory_id, query=asked)
            for path in paths:
                answer = await attack.read(path, Check.NEIGHBOUR, reader, given)
                if reader is company and path.shows is Shows.CONTENT and word not in answer.text():
                    how = "does not show its owner what was just stored"
                    attack.findings.leaked(path.name, Check.CONTROL, how)


async def store(attack: Attack, caller: Caller, person: Person, draft: Draft) -> None:
    """Store a memory as `caller`.

    Raises:
        ProviderUnavailableError: The installation did not answer.
    """
    attack.findings.tried(_STORE, Check.TOGETHER)
    draft.plant(attack.canaries, person)
    try:
        with caller.calling(new_request_id()):
            memory_id = await attack.served.memory.store(draft.memory, _NO_CONTEXT)
    except ProviderUnavailableError:
        raise
    except LuminescentError as error:
        attack.findings.leaked(_STORE, Check.TOGETHER, "refuses what its own person may store", error.code)
    else:
        draft.keep(attack.canaries, person, memory_id)


_NO_CONTEXT: Final[Mapping[str, object]] = {}
