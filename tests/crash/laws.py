"""What must hold after any crash, checked against what the children announced and what was acknowledged to them."""

from __future__ import annotations

from collections import defaultdict

from tests.support.books import Books, Json
from tests.support.processes import Child, Installation, Operation

_WRITES = ("store", "store_many")
_ACTIONS = {
    "store": "memory.store",
    "store_many": "memory.store_many",
    "delete": "memory.delete",
    "get": "memory.get",
    "retrieve": "memory.retrieve",
    "search": "memory.search",
    "erase": "gdpr.erase",
}
_BESIDE = {"gdpr.erase.step", "usage.threshold"}
"""What an operation can leave beside its own event."""
_OPERATORS = {
    "tenant.create",
    "tenant.move",
    "tenant.move.step",
    "embeddings.gate",
    "gdpr.erase",
    "keyring.step",
    "keyring.rotate",
}


def assert_whole(
    installation: Installation, tenant_id: str, users: tuple[str, ...], *, erased: str | None = None
) -> None:
    """Everything acknowledged is there once, nothing else but what is complete; quota and audit say the same.

    Args:
        installation: Opened by a child that can answer.
        tenant_id: The tenant.
        users: Everybody who may have memories in it.
        erased: The one of them who was erased since, if any.
    """
    child, books = installation.child(), installation.books()
    child.ask("drain")
    stored, deleted = _stored(installation, tenant_id), _deleted(installation, tenant_id)
    ledger = books.ledger(tenant_id)
    gone = {memory_id for memory_id, (user, _) in stored.items() if user == erased}

    assert len(set(stored)) == len(stored)
    missing = stored.keys() - gone - ledger.keys()
    assert not missing, f"acknowledged and not in the ledger: {missing}"
    doubtful = {op.facts["id"] for op in installation.journal.of(tenant_id, "delete") if not op.acknowledged}
    for memory_id in stored.keys() - gone:
        if memory_id in deleted:
            assert ledger[memory_id] == "deleted"
        elif memory_id not in doubtful:
            assert ledger[memory_id] == "active"

    active = {memory_id for memory_id, state in ledger.items() if state == "active"}
    _assert_both_planes(books, tenant_id, ledger)
    assert books.used(tenant_id) == len(active)
    contents = _readable(child, tenant_id, users, erased)
    assert contents.keys() == active
    expected = {memory_id: content for memory_id, (_, content) in stored.items()}
    unknown = _unacknowledged_contents(installation, tenant_id)
    for memory_id, content in contents.items():
        if memory_id in expected:
            assert content == expected[memory_id]
        else:
            assert content in unknown, "a memory that nobody asked for"
            unknown.remove(content)
    _assert_ranked(child, tenant_id, stored, active)
    _assert_audited(installation, books, tenant_id, ledger.keys() | gone)


def _assert_both_planes(books: Books, tenant_id: str, ledger: dict[str, str]) -> None:
    assert books.waiting(tenant_id) == []
    materialized = books.materialized(tenant_id)
    assert materialized.keys() == ledger.keys()
    assert set(materialized.values()) <= {1}


def _readable(child: Child, tenant_id: str, users: tuple[str, ...], erased: str | None) -> dict[str, str]:
    """Content by id of everything that a cold read finds."""
    child.ask("forget")
    found: list[Json] = []
    for user in users:
        answer = child.ask("search", tenant=tenant_id, user=user)
        assert isinstance(answer, list), answer
        assert user != erased or answer == []
        assert all(memory["user"] == user for memory in answer)
        found += answer
    by_id = {memory["id"]: memory["content"] for memory in found}
    assert len(by_id) == len(found), "a memory was found twice"
    return by_id


def _assert_ranked(child: Child, tenant_id: str, stored: dict[str, tuple[str, str]], active: set[str]) -> None:
    """The last few acknowledged ones come first when they are asked for in their own words."""
    for memory_id, (user, content) in list(stored.items())[-3:]:
        answer = child.ask("retrieve", tenant=tenant_id, user=user, query=content, limit=1000)
        found = [memory["id"] for memory in answer]
        if memory_id in active:
            assert found[0] == memory_id
        else:
            assert memory_id not in found


def _assert_audited(installation: Installation, books: Books, tenant_id: str, written: set[str]) -> None:
    """One event for each operation that was answered, one or none for the others, and no further one."""
    events: defaultdict[str, list[Json]] = defaultdict(list)
    for event in books.events(tenant_id):
        events[event["request_id"]].append(event)
    recorded_writes: set[str] = set()
    for operation in installation.journal.of(tenant_id):
        mine = [event for event in events.pop(operation.request_id, []) if event["action"] not in _BESIDE]
        assert all(event["action"] == _ACTIONS[operation.name] for event in mine)
        if operation.acknowledged:
            assert len(mine) == 1, (operation, mine)
            _assert_says(mine[0], operation)
        elif operation.error is not None:
            assert len(mine) <= 1
            # An outage may keep the failure itself from being recorded; what did happen is recorded all the same.
            assert mine or operation.error["error"] == "ProviderUnavailableError", operation
        else:
            assert len(mine) <= 1
        if operation.name in _WRITES:
            for event in mine:
                if event["outcome"] == "allowed":
                    recorded_writes.update(event["resource_ids"])
    assert recorded_writes == written, "an event without its memories, or memories without their event"
    # What nobody announced is the operator's: the tenant itself, its table and its models, its keys, and erasures that
    # were taken up again.
    assert {event["action"] for rest in events.values() for event in rest} <= _OPERATORS


def _assert_says(event: Json, operation: Operation) -> None:
    assert event["outcome"] == "allowed"
    match operation.name:
        case "store":
            assert event["resource_ids"] == [operation.answer]
        case "store_many":
            assert event["resource_ids"] == operation.answer
        case "delete":
            assert event["resource_ids"] == ([operation.facts["id"]] if operation.answer else [])
        case "retrieve" | "search":
            assert event["resource_ids"] == [memory["id"] for memory in operation.answer]


def _stored(installation: Installation, tenant_id: str) -> dict[str, tuple[str, str]]:
    """(user, content) by id of everything that was acknowledged."""
    stored = {}
    for operation in installation.journal.of(tenant_id, *_WRITES):
        if operation.acknowledged:
            ids = [operation.answer] if operation.name == "store" else operation.answer
            for memory_id, content in zip(ids, operation.facts["contents"], strict=True):
                assert memory_id not in stored, "one id was given out twice"
                stored[memory_id] = (operation.user_id, content)
    return stored


def _deleted(installation: Installation, tenant_id: str) -> set[str]:
    return {op.facts["id"] for op in installation.journal.of(tenant_id, "delete") if op.acknowledged and op.answer}


def _unacknowledged_contents(installation: Installation, tenant_id: str) -> list[str]:
    return [
        content
        for operation in installation.journal.of(tenant_id, *_WRITES)
        if not operation.acknowledged
        for content in operation.facts["contents"]
    ]
