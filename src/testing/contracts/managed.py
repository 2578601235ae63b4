"""What a `ManagedMemoryProvider` promises beyond the five methods: changes, histories, duplicates, and `walks`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from src.errors import InvalidMemoryError, MemoryNotFoundError, RevisionConflictError
from src.memory.lifecycle import ChangeKind, MemoryChange, StoredMemoryId
from src.memory.protocols import ManagedMemoryProvider
from src.memory.schemas import Memory, MemoryType
from src.testing.contracts.base import ProviderContract
from src.testing.contracts.walks import WalkContract
from src.testing.samples import (
    INVALID_MEMORIES,
    MALFORMED_IDS,
    SOON,
    InvalidSample,
    new_user,
    sample_memory,
)

_DAY_ONE = datetime(2024, 5, 1, 12, tzinfo=UTC)
_CHANGEABLE_FAULTS = [s for s in INVALID_MEMORIES if s.field not in ("user_id", "last_accessed_at")]


class ManagedContract(WalkContract):
    """Each method beyond the published five does what the protocol promises."""

    def test_the_provider_satisfies_the_protocol(self, provider: ManagedMemoryProvider) -> None:
        assert isinstance(provider, ManagedMemoryProvider)

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
