"""Checks that read: one's own (or the test would be blind), the neighbours', and by other people's ids."""

from __future__ import annotations

from typing import Final

from cloud.kernel.ids import new_memory_id
from cloud.kernel.scope import Role
from cloud.leaktest.attack import Attack, living
from cloud.leaktest.canaries import Canary, new_word
from cloud.leaktest.cast import Company, Person, question
from cloud.leaktest.paths import Arguments, Asked, ReadPath, Shows
from cloud.leaktest.report import Check

_SLOW_SHARE: Final = 0.25
_NOT_THEIRS: Final = (Role.MEMBER, Role.SERVICE, Role.AUDITOR)


async def control(attack: Attack) -> None:
    """Everybody finds their own, by every path: a path that shows nothing would pass every other check."""
    for company in attack.companies:
        for person in living(company.people):
            for path in attack.paths(Asked.PERSON):
                memory_id = next(iter(person.memories))
                given = _arguments(attack, company, person, memory_id)
                answer = await attack.read(path, Check.CONTROL, company, given)
                _must_show(attack, path, answer.text(), company, set(person.memories))
                _must_count(attack, path, answer.value, len(person.memories))
            for path in attack.paths(Asked.MEMORY):
                for memory_id in person.memories if not path.changes else ():
                    given = _arguments(attack, company, person, memory_id)
                    answer = await attack.read(path, Check.CONTROL, company, given)
                    _must_show(attack, path, answer.text(), company, {memory_id})
        everything = {memory_id for person in company.people for memory_id in person.memories}
        for path in attack.paths(Asked.OWN_TENANT):
            answer = await attack.read(path, Check.CONTROL, company, Arguments(company.tenant_id))
            _must_show(attack, path, answer.text(), company, everything)
        for path in attack.paths(Asked.TENANT):
            answer = await attack.read(path, Check.CONTROL, company, Arguments(company.tenant_id))
            if answer.error is not None:
                _blind(attack, path, "refuses a caller of its own tenant", path.role.value)


async def learn_subjects(attack: Attack) -> None:
    """Look out for everybody's subject id, which the preview of an erasure tells a tenant's administrator."""
    for company, person in attack.people():
        with company.caller(Role.TENANT_ADMIN).calling(new_memory_id()):
            preview = await attack.served.gdpr.delete_user_data(person.owner.user_id, company.tenant_id)
        if preview.subject_id is not None:
            person.subject_id = preview.subject_id
            attack.canaries.plant_id(Canary(person.owner, "subject id", preview.subject_id))


async def neighbours(attack: Attack) -> None:
    """Whoever asks for another tenant's people and words, in the own tenant, finds what is not there."""
    for company in attack.companies:
        for person in attack.strangers_to(company):
            # One in four by the slow paths too.
            slow = attack.rng.random() < _SLOW_SHARE
            for path in attack.paths(Asked.PERSON) if slow else attack.quick_paths(Asked.PERSON):
                theirs = _arguments(attack, company, person, next(iter(person.memories), ""))
                if person.owner.user_id == company.people[0].owner.user_id:
                    # There is one of that name here too.
                    await attack.read(path, Check.NEIGHBOUR, company, theirs)
                    continue
                absent = Arguments(company.tenant_id, user_id=new_word(), query=theirs.query)
                await attack.compare(path, Check.NEIGHBOUR, company, theirs, absent, attack.caller(company, path))


async def colleagues(attack: Attack) -> None:
    """A member of a tenant who asks for a colleague's memories is refused; by id they do not exist."""
    for company in attack.companies:
        member, me = company.holder(Role.MEMBER), company.people[0].owner
        for person in living(company.people[1:]):
            for path in attack.paths(Asked.PERSON):
                given = _arguments(attack, company, person, next(iter(person.memories)))
                answer = await attack.read(path, Check.NEIGHBOUR, company, given, caller=member)
                attack.must_refuse(path, Check.NEIGHBOUR, answer, "a member who asked for a colleague")
            for path in attack.paths(Asked.MEMORY):
                for memory_id in person.memories:
                    given = Arguments(company.tenant_id, user_id=me.user_id, memory_id=memory_id)
                    absent = Arguments(company.tenant_id, user_id=me.user_id, memory_id=new_memory_id())
                    await attack.compare(path, Check.FOREIGN_ID, company, given, absent, member)


async def not_everybody(attack: Attack) -> None:
    """Who may not see everybody of a tenant is refused by the paths that show everybody."""
    for company in attack.companies:
        for path in attack.paths(Asked.OWN_TENANT):
            for role in _NOT_THEIRS:
                given = Arguments(company.tenant_id)
                answer = await attack.read(path, Check.NEIGHBOUR, company, given, caller=company.holder(role))
                attack.must_refuse(path, Check.NEIGHBOUR, answer, f"a {role.value} who asked for everybody")


async def foreign_ids(attack: Attack) -> None:
    """Ids of other tenants' memories and people look like ids of nothing, by every path that takes one."""
    for company in attack.companies:
        me = company.people[0].owner.user_id
        for person in attack.strangers_to(company):
            ids = [*person.memories, *([person.subject_id] if person.subject_id else [])]
            for path in attack.paths(Asked.MEMORY):
                for memory_id in ids:
                    foreign = Arguments(company.tenant_id, user_id=me, memory_id=memory_id)
                    absent = Arguments(company.tenant_id, user_id=me, memory_id=new_memory_id())
                    caller = attack.caller(company, path)
                    await attack.compare(path, Check.FOREIGN_ID, company, foreign, absent, caller)


def _arguments(attack: Attack, company: Company, person: Person, memory_id: str) -> Arguments:
    word = person.memories.get(memory_id)
    return Arguments(
        company.tenant_id,
        user_id=person.owner.user_id,
        memory_id=memory_id,
        query=question(attack.rng, word),
    )


def _must_show(attack: Attack, path: ReadPath, text: str, company: Company, memory_ids: set[str]) -> None:
    if path.shows not in (Shows.CONTENT, Shows.EVERYTHING):
        return
    shown = {canary.memory_id for canary in attack.canaries.words_in(text) if canary.place == "content"}
    missing = len(memory_ids - shown)
    if missing:
        _blind(attack, path, "lacks memories of its owner's", f"{missing} of {len(memory_ids)} in {company.tenant_id}")


def _must_count(attack: Attack, path: ReadPath, value: object, memories: int) -> None:
    if isinstance(value, int) and value != memories:
        how = "counts other memories than its owner's"
        attack.findings.leaked(path.name, Check.CONTROL, how, f"{value}, where there are {memories}")


def _blind(attack: Attack, path: ReadPath, how: str, example: str) -> None:
    # Nothing leaked, but nothing could have been seen either.
    attack.findings.leaked(path.name, Check.CONTROL, f"{how}, so that it cannot be watched", example)
