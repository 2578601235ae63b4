"""What a `ManagedMemoryProvider` promises beyond the five methods: changes, histories, walks, duplicates."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from src.errors import InvalidFilterError, InvalidMemoryError, MemoryNotFoundError, RevisionConflictError
from src.memory.lifecycle import ChangeKind, MemoryChange, StoredMemoryId
from src.memory.protocols import ManagedMemoryProvider
from src.memory.schemas import Memory, MemoryType
from src.testing.contracts.base import ProviderContract
from src.testing.samples import (
    INVALID_FILTERS,
    INVALID_MEMORIES,
    MALFORMED_IDS,
    SOON,
    InvalidFilter,
    InvalidSample,
    new_user,
    sample_memory,
)

_DAY_ONE = datetime(2024, 5, 1, 12, tzinfo=UTC)
_CHANGEABLE_FAULTS = [s for s in INVALID_MEMORIES if s.field not in ("user_id", "last_accessed_at")]


class ManagedContract(ProviderContract):
    """Each method beyond the published five does what the protocol promises."""

    def test_the_provider_satisfies_the_protocol(self, provider: ManagedMemoryProvider) -> None:
        assert isinstance(provider, ManagedMemoryProvider)

    async def walked(
        self, provider: ManagedMemoryProvider, user: str, filters: dict[str, Any] | None = None, limit: int = 2
    ) -> list[str | None]:
        """The ids of all pages, in order."""
        ids: list[str | None] = []
        cursor = None
        with self.as_user(user):
            while True:
                page = await provider.list(user, filters=filters, limit=limit, cursor=cursor)
                assert len(page.memories) <= limit
                ids += [memory.id for memory in page.memories]
                cursor = page.next_cursor
                if cursor is None:
                    return ids

    async def kinds(self, provider: ManagedMemoryProvider, memory_id: str) -> list[tuple[int, ChangeKind]]:
        return [(change.revision, change.kind) for change in await provider.history(memory_id)]

    # Update

    async def test_an_updated_memory_is_read_with_its_new_values_alone(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        memory = sample_memory(user, content="Lives in Berlin", metadata={"kept": [1]}, created_at=_DAY_ONE)
        memory_id = await self.stored(provider, memory)
        other = await self.stored(provider, sample_memory(user, content="Owns a red bicycle"))
        expires_at = self.now() + timedelta(days=1)
        changes = {
            "content": "Lives in Lisbon",
            "memory_type": MemoryType.FACT,
            "confidence": 0.5,
            "source": "update",
            "expires_at": expires_at,
        }
        with self.as_user(user):
            # Read before, so that whatever is held in between has seen the old one.
            assert len(await provider.retrieve("Berlin", user)) == 2
            assert await provider.update(memory_id, changes) == 2
            found = await provider.get_by_id(memory_id)
            assert found is not None
            unread = {"id", "last_accessed_at"}
            assert found.model_dump(exclude=unread) == memory.model_copy(update=changes).model_dump(exclude=unread)
            assert [m.id for m in await provider.retrieve("Where is Lisbon?", user, limit=1)] == [memory_id]
            assert [m.id for m in await provider.retrieve("red bicycle in Berlin", user, limit=1)] == [other]
            for filters in (
                {},
                {"query": "Berlin"},
                {"include_invalid": True},
                {"query": "x", "include_invalid": True},
            ):
                everything = await provider.search(user, filters)
                assert {m.content for m in everything} == {"Lives in Lisbon", "Owns a red bicycle"}
            assert [m.id for m in await provider.search(user, {"source": "conversation"})] == [other]
            assert [m.content for m in (await provider.list(user)).memories if m.id == memory_id] == ["Lives in Lisbon"]

    async def test_an_update_of_other_fields_leaves_the_content(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user, expires_at=self.now() + timedelta(days=1)))
        with self.as_user(user):
            await provider.update(memory_id, {"metadata": {"project": "skylark"}, "expires_at": None})
            (found,) = await provider.search(user, {"metadata.project": "skylark", "expires_at": {"$exists": False}})
            assert found.content == sample_memory(user).content
            assert [m.id for m in await provider.retrieve("tabs", user)] == [memory_id]

    async def test_the_expected_revision_decides_between_writers(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            assert await provider.update(memory_id, {"content": "second"}, expected_revision=1) == 2
            with pytest.raises(RevisionConflictError) as conflict:
                await provider.update(memory_id, {"content": "late"}, expected_revision=1)
            assert (conflict.value.expected, conflict.value.current) == (1, 2)
            found = await provider.get_by_id(memory_id)
            assert found is not None
            assert found.content == "second"
            assert await self.kinds(provider, memory_id) == [(1, ChangeKind.STORED), (2, ChangeKind.UPDATED)]

    async def test_of_many_writers_with_one_expectation_one_wins(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            answers = await asyncio.gather(
                *(provider.update(memory_id, {"content": f"by {n}"}, expected_revision=1) for n in range(5)),
                return_exceptions=True,
            )
            assert sorted(type(answer).__name__ for answer in answers) == ["RevisionConflictError"] * 4 + ["int"]
            found = await provider.get_by_id(memory_id)
        assert found is not None
        assert found.content == f"by {next(n for n, answer in enumerate(answers) if answer == 2)}"

    async def test_writers_without_expectation_change_different_fields_without_loss(
        self, provider: ManagedMemoryProvider
    ) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            revisions = await asyncio.gather(
                provider.update(memory_id, {"content": "new content"}),
                provider.update(memory_id, {"source": "elsewhere"}),
                provider.update(memory_id, {"confidence": 0.5}),
            )
            found = await provider.get_by_id(memory_id)
        assert sorted(revisions) == [2, 3, 4]
        assert found is not None
        assert (found.content, found.source, found.confidence) == ("new content", "elsewhere", 0.5)

    @pytest.mark.parametrize("sample", _CHANGEABLE_FAULTS, ids=lambda sample: sample.label)
    async def test_an_invalid_change_is_refused_by_field(
        self, provider: ManagedMemoryProvider, sample: InvalidSample
    ) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            with pytest.raises(InvalidMemoryError) as refused:
                await provider.update(memory_id, {sample.field: sample.value})
            assert refused.value.field == sample.field
            assert await self.kinds(provider, memory_id) == [(1, ChangeKind.STORED)]

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"id": "x"}, "id"),
            ({"user_id": "bob"}, "user_id"),
            ({"last_accessed_at": _DAY_ONE}, "last_accessed_at"),
            ({"colour": "red"}, "changes"),
            ({"content": "x", "tenant_id": "other"}, "changes"),
            ({}, "changes"),
            (None, "changes"),
        ],
    )
    async def test_what_is_no_changeable_field_is_refused(
        self, provider: ManagedMemoryProvider, changes: Any, field: str
    ) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user), pytest.raises(InvalidMemoryError) as refused:
            await provider.update(memory_id, changes)
        assert refused.value.field == field

    @pytest.mark.parametrize("revision", [0, -1, True, "1", 1.0])
    async def test_what_is_no_revision_is_refused(self, provider: ManagedMemoryProvider, revision: Any) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user), pytest.raises(InvalidMemoryError, match="expected_revision"):
            await provider.update(memory_id, {"content": "x"}, expected_revision=revision)

    @pytest.mark.parametrize("memory_id", MALFORMED_IDS, ids=lambda memory_id: repr(memory_id[:40]))
    async def test_unknown_and_malformed_ids_are_absent_here_too(
        self, provider: ManagedMemoryProvider, memory_id: str
    ) -> None:
        user = new_user()
        await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            with pytest.raises(MemoryNotFoundError):
                await provider.update(memory_id, {"content": "x"}, expected_revision=7)
            with pytest.raises(MemoryNotFoundError):
                await provider.supersede(memory_id, sample_memory(user), {})
            assert await provider.undelete(memory_id) is False
            assert await provider.history(memory_id) == []
            assert await provider.count(user) == 1

    # Delete and undelete

    async def test_an_undeleted_memory_is_what_it_was(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            await provider.update(memory_id, {"content": "Prefers spaces after all"})
            assert await provider.undelete(memory_id) is False
            assert await provider.delete(memory_id)
            assert await provider.retrieve("spaces", user) == []
            assert await provider.undelete(memory_id) is True
            assert await provider.undelete(memory_id) is False
            (found,) = await provider.retrieve("spaces", user)
            assert (found.id, found.content) == (memory_id, "Prefers spaces after all")
            assert [m.id for m in (await provider.list(user)).memories] == [memory_id]
            assert await self.kinds(provider, memory_id) == [
                (1, ChangeKind.STORED),
                (2, ChangeKind.UPDATED),
                (2, ChangeKind.DELETED),
                (2, ChangeKind.UNDELETED),
            ]
            assert await provider.update(memory_id, {"content": "once more"}, expected_revision=2) == 3

    async def test_a_deleted_memory_is_absent_to_changes(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        memory_id = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            assert await provider.delete(memory_id)
            with pytest.raises(MemoryNotFoundError):
                await provider.update(memory_id, {"content": "x"})
            with pytest.raises(MemoryNotFoundError):
                await provider.supersede(memory_id, sample_memory(user), {})
            assert await provider.count(user, {"include_invalid": True}) == 0

    async def test_what_expired_while_deleted_does_not_come_back(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        expires_at = self.now() + SOON
        memory_id = await self.stored(provider, sample_memory(user, expires_at=expires_at))
        with self.as_user(user):
            assert await provider.delete(memory_id)
            await self.wait_until(expires_at)
            assert await provider.undelete(memory_id) is False

    # Supersede

    async def test_a_superseded_memory_is_found_with_include_invalid_alone(
        self, provider: ManagedMemoryProvider
    ) -> None:
        user = new_user()
        old = await self.stored(provider, sample_memory(user, content="Lives in Berlin"))
        with self.as_user(user):
            assert [m.id for m in await provider.retrieve("Berlin", user)] == [old]
            new = await provider.supersede(old, sample_memory(user, content="Lives in Lisbon"), {})
            assert new != old
            assert await provider.get_by_id(old) is None
            assert [m.id for m in await provider.retrieve("Berlin", user)] == [new]
            assert [m.id for m in await provider.search(user, {})] == [new]
            assert [m.id for m in await provider.search(user, {"query": "Berlin"})] == [new]
            for filters in ({"include_invalid": True}, {"include_invalid": True, "query": "Berlin"}):
                assert {m.content for m in await provider.search(user, filters)} == {
                    "Lives in Berlin",
                    "Lives in Lisbon",
                }
            assert await provider.count(user) == 1
            assert await provider.count(user, {"include_invalid": True}) == 2
            lines = await provider.history(old)
            assert [(line.kind, line.successor) for line in lines] == [
                (ChangeKind.STORED, None),
                (ChangeKind.SUPERSEDED, new),
            ]
            assert await self.kinds(provider, new) == [(1, ChangeKind.STORED)]
            with pytest.raises(MemoryNotFoundError):
                await provider.supersede(old, sample_memory(user), {})
            assert await provider.delete(old) is False

    async def test_an_invalid_successor_leaves_the_old_one(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        old = await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            with pytest.raises(InvalidMemoryError):
                await provider.supersede(old, sample_memory(user, content=""), {})
            assert [m.id for m in (await provider.list(user)).memories] == [old]

    async def test_a_memory_is_not_superseded_by_another_persons(self, provider: ManagedMemoryProvider) -> None:
        one, other = new_user("one"), new_user("other")
        old = await self.stored(provider, sample_memory(one))
        with self.as_user(other):
            with pytest.raises(MemoryNotFoundError):
                await provider.supersede(old, sample_memory(other), {})
            assert await provider.count(other) == 0
        with self.as_user(one):
            assert await provider.get_by_id(old) is not None

    # History

    async def test_history_tells_what_when_and_no_content(self, provider: ManagedMemoryProvider) -> None:
        user = new_user("history")
        expires_at = self.now() + SOON
        memory_id = await self.stored(provider, sample_memory(user, content="the first secret"))
        with self.as_user(user):
            await provider.update(memory_id, {"content": "the second secret", "expires_at": expires_at})
            await self.wait_until(expires_at)
            lines = await provider.history(memory_id)
        assert all(isinstance(line, MemoryChange) for line in lines)
        assert [line.kind for line in lines] == [ChangeKind.STORED, ChangeKind.UPDATED, ChangeKind.EXPIRED]
        assert [line.at for line in lines] == sorted(line.at for line in lines)
        assert lines[-1].at == expires_at
        assert lines[-1].actor is None
        assert "secret" not in repr(lines)
        assert user not in repr(lines)

    # Walks

    async def test_walking_shows_each_memory_once_newest_first(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        days = [3, 1, 2, 3, 3, 1, 2]
        for day in days:
            await self.stored(provider, sample_memory(user, created_at=_DAY_ONE + timedelta(days=day)))
        expected = [memory.id for memory in await self.everything(provider, user)]
        for limit in (1, 2, 3, 7, 100):
            assert await self.walked(provider, user, limit=limit) == expected
        with self.as_user(user):
            assert await provider.count(user) == len(days)
            assert (await provider.list(user, limit=7)).next_cursor is None

    async def test_walking_within_a_filter_shows_what_satisfies_it(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        for number in range(9):
            await self.stored(provider, sample_memory(user, source="even" if number % 2 == 0 else "odd"))
        filters = {"source": {"$in": ["even", "nowhere"]}, "confidence": {"$gte": 0.5}}
        assert len(await self.walked(provider, user, filters)) == 5
        with self.as_user(user):
            assert await provider.count(user, filters) == 5
            # The order of what a filter says does not matter, not even between pages.
            page = await provider.list(user, filters=filters, limit=3)
            again = {"confidence": {"$gte": 0.5}, "source": {"$in": ["nowhere", "even"]}}
            assert len((await provider.list(user, filters=again, limit=3, cursor=page.next_cursor)).memories) == 2

    async def test_a_walk_is_complete_while_others_write(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        held = [
            await self.stored(provider, sample_memory(user, created_at=_DAY_ONE + timedelta(minutes=n)))
            for n in range(12)
        ]
        seen: list[str | None] = []
        cursor, doomed = None, {held[0], held[11]}
        for number in range(100):
            with self.as_user(user):
                page = await provider.list(user, limit=2, cursor=cursor)
                seen += [memory.id for memory in page.memories]
                cursor = page.next_cursor
                if cursor is None:
                    break
                # One before, one among, and one behind the place; one of those seen, and one of those to come.
                for at in (-number, number, 1000 + number):
                    await provider.store(sample_memory(user, created_at=_DAY_ONE + timedelta(minutes=at)), {})
                if number == 1:
                    for memory_id in doomed:
                        assert await provider.delete(memory_id)
                await provider.update(held[5], {"content": f"changed for the {number}th time"})
        assert len(set(seen)) == len(seen)
        assert set(held) - doomed <= set(seen)

    @pytest.mark.parametrize(
        "damage", ["truncated", "extended", "changed", "recoded", "empty", "number", "long", "nul"]
    )
    async def test_a_cursor_that_was_not_made_here_is_refused(
        self, provider: ManagedMemoryProvider, damage: str
    ) -> None:
        user = new_user()
        for _ in range(3):
            await self.stored(provider, sample_memory(user))
        with self.as_user(user):
            cursor = (await provider.list(user, limit=1)).next_cursor
            assert cursor is not None
            flipped = "A" if cursor[20] != "A" else "B"
            damaged: dict[str, Any] = {
                "truncated": cursor[:-1],
                "extended": cursor + "A",
                "changed": cursor[:20] + flipped + cursor[21:],
                "recoded": cursor + "=",
                "empty": "",
                "number": 5,
                "long": cursor * 10_000,
                "nul": "\0" * len(cursor),
            }
            with pytest.raises(InvalidFilterError) as refused:
                await provider.list(user, limit=1, cursor=damaged[damage])
        assert refused.value.place == "cursor"

    async def test_a_cursor_of_another_walk_is_refused(self, provider: ManagedMemoryProvider) -> None:
        one, other = new_user("one"), new_user("other")
        for user in (one, other):
            for _ in range(3):
                await self.stored(provider, sample_memory(user))
        with self.as_user(one):
            cursor = (await provider.list(one, limit=1)).next_cursor
            assert cursor is not None
            assert one not in cursor
            for filters in ({"source": "conversation"}, {"include_invalid": True}):
                with pytest.raises(InvalidFilterError, match="cursor"):
                    await provider.list(one, filters=filters, limit=1, cursor=cursor)
        for stranger in (other, new_user("nobody")):
            with self.as_user(stranger), pytest.raises(InvalidFilterError, match="cursor"):
                await provider.list(stranger, limit=1, cursor=cursor)

    @pytest.mark.parametrize("case", INVALID_FILTERS, ids=lambda case: case.label)
    async def test_walks_and_counts_refuse_invalid_filters(
        self, provider: ManagedMemoryProvider, case: InvalidFilter
    ) -> None:
        user = new_user()
        with self.as_user(user):
            with pytest.raises(InvalidFilterError) as listed:
                await provider.list(user, filters=case.filters)
            with pytest.raises(InvalidFilterError) as counted:
                await provider.count(user, case.filters)
        assert listed.value.place == counted.value.place == case.place

    async def test_walks_and_counts_do_not_rank(self, provider: ManagedMemoryProvider) -> None:
        user = new_user()
        with self.as_user(user):
            with pytest.raises(InvalidFilterError, match="query"):
                await provider.list(user, filters={"query": "tea"})
            with pytest.raises(InvalidFilterError, match="query"):
                await provider.count(user, {"query": "tea"})
            for limit in (0, 1001, True):
                with pytest.raises(InvalidFilterError, match="limit"):
                    await provider.list(user, limit=limit)

    # Duplicates

    async def test_duplicates_are_reported_on_request_alone(self, provider: ManagedMemoryProvider) -> None:
        user, other = new_user(), new_user()
        text = "Alice moved to Berlin in May 2023 with both of her cats"
        first = await self.stored(provider, sample_memory(user, content=text))
        near = await self.stored(provider, sample_memory(user, content=text.replace("both of her", "her two")))
        await self.stored(provider, sample_memory(user, content="Owns a red bicycle"))
        await self.stored(provider, sample_memory(other, content=text))
        with self.as_user(user):
            plain = await provider.store(sample_memory(user, content=text), {})
            assert not isinstance(plain, StoredMemoryId)
            assert await provider.delete(plain)
            again = await provider.store(
                sample_memory(user, content=text.replace(" ", "  ") + "\n"), {"report_duplicates": True}
            )
            assert isinstance(again, StoredMemoryId)
            assert again.duplicates is not None
            assert [(d.memory_id, d.exact) for d in again.duplicates] == [(first, True), (near, False)]
            assert again.duplicates[0].similarity == 1.0
            assert 0.8 <= again.duplicates[1].similarity <= 1.0
            assert (await provider.get_by_id(again)) is not None
            fresh = await provider.store(sample_memory(user, content="Sails"), {"report_duplicates": True})
            assert isinstance(fresh, StoredMemoryId)
            assert fresh.duplicates == ()


class ManagedCallerIsolationContract(ProviderContract):
    """For providers that know who is calling: an id does not change, follow or bring back what is another's."""

    async def test_anothers_memory_looks_absent_to_every_method(self, provider: ManagedMemoryProvider) -> None:
        one, other = new_user("one"), new_user("other")
        theirs: Memory = sample_memory(other)
        kept, deleted = [await self.stored(provider, sample_memory(one)) for _ in range(2)]
        with self.as_user(one):
            assert await provider.delete(deleted)
        with self.as_user(other):
            for revision in (None, 1, 7):
                with pytest.raises(MemoryNotFoundError):
                    await provider.update(kept, {"content": "mine now"}, expected_revision=revision)
            with pytest.raises(MemoryNotFoundError):
                await provider.supersede(kept, theirs, {})
            assert await provider.undelete(deleted) is False
            assert await provider.history(kept) == []
            assert await provider.history(deleted) == []
        with self.as_user(one):
            found = await provider.get_by_id(kept)
            assert found is not None
            assert found.content == sample_memory(one).content
            assert [line.kind for line in await provider.history(kept)] == [ChangeKind.STORED]
            assert await provider.undelete(deleted) is True
