"""Checks that tamper: hostile names, ids, queries and filters; callers who are not who they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cloud.kernel.errors import AuthenticationError, LuminescentError, TenantIsolationError
from cloud.kernel.ids import new_request_id
from cloud.kernel.scope import Role
from cloud.leaktest import hostile
from cloud.leaktest.attack import Attack, living
from cloud.leaktest.canaries import Owner
from cloud.leaktest.cast import Caller, Company, Person, new_draft, question
from cloud.leaktest.paths import Arguments, Asked, ReadPath
from cloud.leaktest.report import Check

_NAMES: Final = 3
_FROM_ROLES: Final = frozenset({Role.SERVICE.value, Role.TENANT_ADMIN.value})


async def hostile_input(attack: Attack) -> None:
    """Names, ids and questions that careless code takes for another's find nothing of another's."""
    by_person = attack.quick_paths(Asked.PERSON)
    for number, company in enumerate(attack.companies):
        own = company.people[0].owner.user_id
        person = attack.rng.choice(living(attack.strangers_to(company)))
        memory_id, word = attack.rng.choice(list(person.memories.items()))
        names = [
            *hostile.names_like(person.owner.user_id),
            *hostile.joined_names(company.tenant_id, person.owner.tenant_id, person.owner.user_id),
            *hostile.FRAGMENTS,
            *([person.subject_id] if person.subject_id else []),
            person.owner.tenant_id,
            memory_id,
        ]
        # Each by two paths here, and by the next two in the next tenant.
        for at, name in enumerate(names, start=2 * number):
            for path in (by_person[at % len(by_person)], by_person[(at + 1) % len(by_person)]):
                given = Arguments(company.tenant_id, user_id=name, query=question(attack.rng, word))
                await attack.read(path, Check.HOSTILE, company, given)
        for path in by_person:
            for query in (
                (word, f"{word}%", f'"{word}" OR *', *hostile.FRAGMENTS) if path.takes(attack.served, "query") else ()
            ):
                given = Arguments(company.tenant_id, user_id=own, query=query)
                await attack.read(path, Check.HOSTILE, company, given)
        for path in attack.paths(Asked.MEMORY):
            for text in (*hostile.ids_like(memory_id), *hostile.FRAGMENTS):
                given = Arguments(company.tenant_id, user_id=own, memory_id=text)
                await attack.read(path, Check.HOSTILE, company, given)
        for path in attack.paths(Asked.PERSON, surface="gdpr"):
            for name in attack.rng.sample(names, 6):
                await attack.read(path, Check.HOSTILE, company, Arguments(company.tenant_id, user_id=name))


async def hostile_filters(attack: Attack) -> None:
    """A filter that reaches beyond the caller's own is refused or finds nothing, and none is dropped."""
    for company in attack.companies:
        person = attack.rng.choice(living(attack.strangers_to(company)))
        memory_id, word = attack.rng.choice(list(person.memories.items()))
        tried = hostile.filters_for(
            tenant_id=person.owner.tenant_id,
            own_tenant_id=company.tenant_id,
            user_id=person.owner.user_id,
            word=word,
            source=person.sources[memory_id],
            memory_id=memory_id,
        )
        for path in _filtered(attack):
            for one in tried:
                given = Arguments(company.tenant_id, user_id=company.people[0].owner.user_id, filters=one.filters)
                answer = await attack.read(path, Check.HOSTILE, company, given)
                found = answer.value if isinstance(answer.value, int) else len(answer.memories())
                match one.expected_of(ranks=path.ranks):
                    case hostile.Expected.REFUSED if answer.error is None:
                        how = "drops a filter that it should refuse"
                    case hostile.Expected.NOTHING if found or answer.error is not None:
                        how = "does not answer a filter that nothing passes with nothing"
                    case hostile.Expected.OWN if not found:
                        how = "answers a filter that one's own memories pass with nothing"
                    case _:
                        continue
                attack.findings.leaked(path.name, Check.HOSTILE, how, f"{one.label}: {found} memories")


def _filtered(attack: Attack) -> list[ReadPath]:
    """One use of each method that takes a filter: here the filter is the test's."""
    found: dict[tuple[str, str], ReadPath] = {}
    for path in attack.quick_paths(Asked.PERSON, Asked.OWN_TENANT):
        if path.is_filtered(attack.served):
            found.setdefault((path.surface, path.method), path)
    return list(found.values())


async def foreign_cursors(attack: Attack) -> None:
    """A cursor that another tenant was given goes on with nothing of theirs."""
    for path in attack.paths(Asked.PERSON, surface="memory"):
        for company in attack.companies:
            person = attack.rng.choice(living(attack.strangers_to(company)))
            theirs = next(one for one in attack.companies if one.tenant_id == person.owner.tenant_id)
            first = Arguments(theirs.tenant_id, user_id=person.owner.user_id, query=question(attack.rng), limit=1)
            page = await attack.read(path, Check.HOSTILE, theirs, first)
            cursor = getattr(page.value, "next_cursor", None) or getattr(page.value, "cursor", None)
            if cursor is None:
                continue
            for user_id in (person.owner.user_id, company.people[0].owner.user_id):
                given = Arguments(company.tenant_id, user_id=user_id, query=first.query, cursor=cursor)
                await attack.read(path, Check.HOSTILE, company, given)


async def credentials(attack: Attack) -> None:
    """Whoever shows one tenant's credential and names another is answered by no path."""
    for company in attack.companies:
        for victim in attack.companies:
            if victim is company:
                continue
            person = attack.rng.choice(living(victim.people))
            # One use of each method: who is calling is decided before what is asked.
            named = attack.shuffled(Asked.PERSON, Asked.MEMORY, Asked.TENANT)
            paths = {(path.surface, path.method): path for path in named}
            for path in (*paths.values(), *attack.paths(Asked.OWN_TENANT)):
                given = Arguments(
                    victim.tenant_id,
                    user_id=person.owner.user_id,
                    memory_id=next(iter(person.memories)),
                    query=question(attack.rng),
                )
                for caller in _impostors(attack, company, victim, path):
                    if path.writes_files(attack.served):
                        given = replace(given, directory=attack.fresh_directory())
                    answer = await attack.attempt(path, Check.CREDENTIALS, caller, given)
                    attack.judge(path, Check.CREDENTIALS, answer, company.tenant_id, None)
                    attack.must_refuse(path, Check.CREDENTIALS, answer, "a caller who is not of the tenant it names")
            await _contexts(attack, company, victim, person)
        for path in attack.paths(Asked.INSTALLATION):
            for caller in _no_operators(company):
                given = Arguments(company.tenant_id, directory=attack.fresh_directory())
                answer = await attack.attempt(path, Check.CREDENTIALS, caller, given)
                attack.judge(path, Check.CREDENTIALS, answer, company.tenant_id, None)
                attack.must_refuse(path, Check.CREDENTIALS, answer, "a caller of a tenant, who is no operator")


def _no_operators(company: Company) -> Iterator[Caller]:
    for role in (Role.TENANT_ADMIN, Role.AUDITOR, Role.SERVICE):
        yield company.holder(role)
    yield company.caller(Role.TENANT_ADMIN)


def _impostors(attack: Attack, company: Company, victim: Company, path: ReadPath) -> Iterator[Caller]:
    mine, theirs = company.keys[path.role], victim.keys[path.role]
    yield Caller(victim.tenant_id, api_key=mine)
    yield Caller(victim.tenant_id, _FROM_ROLES, api_key=mine)
    if path.asked is Asked.TENANT or path.surface == "gdpr":
        # These name their tenant themselves.
        yield company.caller(path.role)
        yield company.holder(path.role)
    # The victim's key with one's own secret, and one's own with the victim's.
    for first, second in ((theirs, mine), (mine, theirs)):
        head, _, _ = first.rpartition("_")
        yield Caller(api_key=f"{head}_{second.rpartition('_')[2]}")
    yield Caller(api_key=theirs[:-1])
    yield Caller(api_key=theirs.upper())
    for name in attack.rng.sample(hostile.names_like(victim.tenant_id), _NAMES):
        if all(name != one.tenant_id for one in attack.companies):
            yield Caller(name, _FROM_ROLES)


async def _contexts(attack: Attack, company: Company, victim: Company, person: Person) -> None:
    """Contexts that disagree: nothing is written for a tenant that the credential is not of."""
    mine, theirs = f"Bearer {company.keys[Role.SERVICE]}", f"Bearer {victim.keys[Role.SERVICE]}"
    disagreeing: list[tuple[Caller, dict[str, object]]] = [
        (company.caller(Role.SERVICE), {"tenant_id": victim.tenant_id}),
        (company.holder(Role.SERVICE), {"tenant_id": victim.tenant_id}),
        (company.holder(Role.SERVICE), {"x-tenant-id": victim.tenant_id}),
        (company.caller(Role.SERVICE), {"x-tenant-id": victim.tenant_id}),
        (company.holder(Role.SERVICE), {"authorization": theirs}),
        (victim.caller(Role.SERVICE), {"authorization": mine}),
        (Caller(), {"authorization": mine, "x-tenant-id": victim.tenant_id}),
        (Caller(), {"authorization": mine, "tenant_id": victim.tenant_id}),
        (Caller(), {"tenant_id": company.tenant_id, "x-tenant-id": victim.tenant_id}),
    ]
    for caller, context in disagreeing:
        await _must_not_store(attack, caller, context, person)
        _must_not_name(attack, caller, context)


async def _must_not_store(attack: Attack, caller: Caller, context: dict[str, object], person: Person) -> None:
    path = "memory.store"
    draft = new_draft(person, attack.rng)
    draft.plant(attack.canaries, person)
    attack.findings.tried(path, Check.CREDENTIALS)
    try:
        with caller.calling(new_request_id()):
            await attack.served.memory.store(draft.memory, context)
    except (AuthenticationError, TenantIsolationError) as error:
        if attack.canaries.words_in(str(error)):
            attack.findings.leaked(path, Check.CREDENTIALS, "an error shows what was to be stored")
    else:
        attack.findings.leaked(path, Check.CREDENTIALS, "stored for a tenant that the caller's credential is not of")


def _must_not_name(attack: Attack, caller: Caller, context: dict[str, object]) -> None:
    path = "tenant_provider.get_tenant_id"
    attack.findings.tried(path, Check.CREDENTIALS)
    try:
        with caller.calling(new_request_id()):
            attack.served.tenant_provider.get_tenant_id(context)
    except LuminescentError:
        return
    attack.findings.leaked(path, Check.CREDENTIALS, "names a tenant though the caller's sources disagree")


async def may_not_access(attack: Attack) -> None:
    """Nobody is told to have access to another tenant."""
    path = "tenant_provider.validate_tenant_access"
    for company in attack.companies:
        for victim in attack.companies:
            for resource in ("memories", "memories:write", "export", "usage", "audit"):
                attack.findings.tried(path, Check.CREDENTIALS)
                owner = Owner(victim.tenant_id, victim.people[0].owner.user_id)
                with company.holder(Role.TENANT_ADMIN).calling(new_request_id()):
                    may = attack.served.tenant_provider.validate_tenant_access(owner.tenant_id, owner.user_id, resource)
                if may is not (victim is company):
                    attack.findings.leaked(path, Check.CREDENTIALS, "answers wrongly", f"{may} for {resource}")
