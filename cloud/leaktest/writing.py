"""Checks that write: what a write tells its caller of memories that are there is its own person's and tenant's alone.

What they store is deleted again by the end of each, where it can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cloud.kernel.errors import LuminescentError, ProviderUnavailableError
from cloud.kernel.ids import new_request_id
from cloud.kernel.scope import Role
from cloud.leaktest.attack import Attack
from cloud.leaktest.canaries import Canary, new_word
from cloud.leaktest.cast import Company, Person, question
from cloud.leaktest.report import Check
from src.memory.lifecycle import StoredMemoryId
from src.memory.schemas import Memory, MemoryType

_STORE: Final = "memory.store"
_DUPLICATES: Final = "memory.store (duplicates)"
_KEYED: Final = "memory.store (idempotency key)"
_UPDATE: Final = "memory.update"
_SUPERSEDE: Final = "memory.supersede"
_PLAIN: Final[Mapping[str, object]] = {}
_TELL: Final[Mapping[str, object]] = {"report_duplicates": True}


async def duplicates(attack: Attack) -> None:
    """Who stores what others have stored, word for word, is told of the own person's memory alone."""
    for company in attack.companies:
        text = f"{question(attack.rng)} It is said here: {new_word()}."
        me = company.people[0]
        colleagues = [(company, person) for person in company.people[1:2]]
        strangers = [(other, other.people[0]) for other in attack.companies if other is not company]
        stored = [await _stored(attack, *owner, text) for owner in (*colleagues, *strangers, (company, me))]
        own = stored[-1]
        again = await _stored(attack, company, me, text, _TELL, path=_DUPLICATES)
        told = _told(again)
        if own not in told:
            how = "does not tell of its owner's own memory, so that it cannot be watched"
            attack.findings.leaked(_DUPLICATES, Check.CONTROL, how)
        _judge(attack, _DUPLICATES, told, me)
        for (where, _), memory_id in zip((*colleagues, *strangers, (company, me)), stored, strict=True):
            await _delete(attack, where, memory_id)
        await _delete(attack, company, again)


async def idempotency_keys(attack: Attack) -> None:
    """Another tenant's idempotency key stands for nothing here, with the memory it stood for there and with others."""
    for company in attack.companies:
        for other in attack.companies:
            if other is company:
                continue
            key: Mapping[str, object] = {"idempotency_key": f"order-{new_word()}"}
            text, theirs, mine = f"Said under a key: {new_word()}.", other.people[0], company.people[0]
            first = await _stored(attack, other, theirs, text, key, path=_KEYED)
            if await _stored(attack, other, theirs, text, key, path=_KEYED) != first:
                how = "does not give back the id to its own tenant, so that it cannot be watched"
                attack.findings.leaked(_KEYED, Check.CONTROL, how)
            # The very memory that it stands for there, or another one, which would be in conflict with it.
            here = text if attack.rng.random() < 0.5 else f"Said otherwise: {new_word()}."
            second = await _stored(attack, company, mine, here, key, path=_KEYED)
            _judge(attack, _KEYED, {second}, mine)
            if second == first:
                attack.findings.leaked(_KEYED, Check.FOREIGN_ID, "gives back what another tenant stored under the key")
            for where, memory_id in ((other, first), (company, second)):
                await _delete(attack, where, memory_id)


async def own_changes(attack: Attack) -> None:
    """Everybody may change their own: a path that changes nothing would pass every check with foreign ids."""
    for company in attack.companies:
        me = company.people[0]
        memory_id = await _stored(attack, company, me, f"Said to be changed: {new_word()}.")
        instead = _memory(me, f"Said instead: {new_word()}.")
        after = ""
        path = _UPDATE
        try:
            with company.caller(Role.SERVICE).calling(new_request_id()):
                attack.findings.tried(path, Check.CONTROL)
                await attack.served.memory.update(memory_id, {"content": f"Changed: {new_word()}."})
                path = _SUPERSEDE
                attack.findings.tried(path, Check.CONTROL)
                after = await attack.served.memory.supersede(memory_id, instead, _PLAIN)
        except ProviderUnavailableError:
            raise
        except LuminescentError as error:
            attack.findings.leaked(path, Check.CONTROL, "refuses one's own, so that it cannot be watched", error.code)
        if after:
            attack.canaries.plant_id(Canary(me.owner, "memory id", after, after))
        for one in (memory_id, after):
            await _delete(attack, company, one)


def _memory(person: Person, text: str) -> Memory:
    return Memory(user_id=person.owner.user_id, content=text, memory_type=MemoryType.FACT, source="leak test")


async def _stored(
    attack: Attack,
    company: Company,
    person: Person,
    text: str,
    context: Mapping[str, object] = _PLAIN,
    *,
    path: str = _STORE,
) -> str:
    """Store a text for a person as a service of the tenant; its id, or nothing if it was refused."""
    attack.findings.tried(path, Check.FOREIGN_ID)
    try:
        with company.caller(Role.SERVICE).calling(new_request_id()):
            memory_id = await attack.served.memory.store(_memory(person, text), context)
    except ProviderUnavailableError:
        raise
    except LuminescentError as error:
        attack.findings.leaked(path, Check.FOREIGN_ID, "refuses what its own person may store", error.code)
        return ""
    if attack.canaries.owner_of(memory_id) is None:
        attack.canaries.plant_id(Canary(person.owner, "memory id", memory_id, str(memory_id)))
    return memory_id


def _told(stored: str) -> set[str]:
    found = stored.duplicates if isinstance(stored, StoredMemoryId) else None
    return {duplicate.memory_id for duplicate in found or ()}


def _judge(attack: Attack, path: str, memory_ids: set[str], person: Person) -> None:
    for memory_id in memory_ids:
        owner = attack.canaries.owner_of(memory_id) if memory_id else person.owner
        if owner != person.owner:
            same = owner is not None and owner.tenant_id == person.owner.tenant_id
            whose = "somebody else of the tenant" if same else "another tenant"
            how = f"tells the memory id of {whose}"
            attack.findings.leaked(path, Check.FOREIGN_ID, how, f"{person.owner.tenant_id} saw {memory_id}")


async def _delete(attack: Attack, company: Company, memory_id: str) -> None:
    if not memory_id:
        return
    with company.caller(Role.SERVICE).calling(new_request_id()):
        # One that was superseded cannot be deleted: who asks for what is invalid goes on to see it.
        deleted = await attack.served.memory.delete(memory_id)
    if deleted:
        attack.canaries.bury_memory(str(memory_id))
