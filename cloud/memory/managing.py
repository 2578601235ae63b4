"""Changing, following and going through memories: decided by the ledger, shown to this process's own readers."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final, assert_never

from cloud.audit.model import Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.kernel import failpoints
from cloud.kernel.errors import (
    IdempotencyConflictError,
    InvalidFilterError,
    LuminescentError,
    MemoryNotFoundError,
    ProviderUnavailableError,
    RevisionConflictError,
)
from cloud.kernel.ids import new_memory_id, parse_memory_id
from cloud.keys.model import SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.managed_ports import RevisionConflict, Superseded, Told, Undeleted, Updated, Whose
from cloud.memory.model import HotMemory, SealedRow, SubjectSnapshot
from cloud.memory.ports import Absent, KeyConflict, Located, Stale, TenantRefused
from cloud.memory.reading import MemoryReader
from cloud.memory.snapshots import SnapshotLoader
from cloud.memory.writing import MemoryWriter, refusal
from cloud.tenancy.admission import Admitted
from cloud.usage.ports import QuotaRefusal
from src.memory.cursors import Cursors, Position, page_of, walk_of
from src.memory.filters import SearchRequest
from src.memory.lifecycle import MemoryChange, MemoryPage
from src.memory.predicates import tester
from src.memory.schemas import Memory

_ATTEMPTS: Final = 6


class MemoryManager:
    """Updates, supersedes, undeletes, follows, lists and counts memories for admitted callers."""

    def __init__(
        self,
        config: PixeltableConfig,
        loader: SnapshotLoader,
        writer: MemoryWriter,
        reader: MemoryReader,
        audit: TransactionalAuditLogger,
    ) -> None:
        self._config = config
        self._loader = loader
        self._writer = writer
        self._reader = reader
        self._audit = audit

    def update(self, admitted: Admitted, memory_id: str, changes: Mapping[str, Any], expected: int | None) -> int:
        """Change fields of a memory; returns its new revision.

        Args:
            admitted: The operation.
            memory_id: The memory.
            changes: Checked values by field.
            expected: The revision it must have, if one is insisted on.

        Raises:
            MemoryNotFoundError: There is none for this caller.
            RevisionConflictError: It has another revision.
            QuotaExceededError: The new one does not fit; nothing was changed.
            AuthenticationError: There is no such tenant.
            PermissionDeniedError: The tenant is not active.
            ProviderUnavailableError: A plane did not answer.
        """
        whose = self._whose(admitted, memory_id)
        for _ in range(_ATTEMPTS):
            found = self._present(admitted, whose)
            if found is None:
                raise self._absent(admitted, {"updated": 0})
            person, snapshot = found
            held = snapshot.memories.get(whose.memory_id)
            if held is None or held.superseded:
                continue
            changed = held.opened(self._config.clock()).model_copy(update=dict(changes))
            row = self._writer.sealed(person, whose.memory_id, changed, revision=held.revision + 1)
            failpoints.reach("update.sealed")
            answer = self._config.ledger.update(admitted.predicate, whose, row, expected=expected, audit=admitted.draft)
            match answer:
                case Updated(revision=revision, generation=generation):
                    failpoints.reach("update.committed")
                    self._show(person, row, generation, superseded=None)
                    return revision
                case RevisionConflict(expected=wanted, current=current):
                    raise RevisionConflictError(expected=wanted, current=current)
                case Stale():
                    # Somebody else changed it: what was not named in this call comes from theirs.
                    continue
                case Absent() | QuotaRefusal() | TenantRefused():
                    raise self._refused(admitted, answer)
                case _:
                    assert_never(answer)
        raise ProviderUnavailableError("hot tier", reason="could not catch up with the memory's changes")

    def supersede(self, admitted: Admitted, memory_id: str, memory: Memory, *, idempotency_key: str | None) -> str:
        """Store a memory in the place of another one of the same person; returns the new id.

        Args:
            admitted: The operation.
            memory_id: The old memory.
            memory: The new one, validated.
            idempotency_key: As for `store`.

        Raises:
            IdempotencyConflictError: The key stood for another request before.
            MemoryNotFoundError, QuotaExceededError, AuthenticationError, PermissionDeniedError,
            ProviderUnavailableError: As `update`.
        """
        person = self._reader.person(admitted, memory.user_id)
        if person is None:
            # Nobody is linked to the tenant because of a memory that cannot be theirs.
            raise self._absent(admitted, {"stored": 0, "superseded": 0})
        whose = self._whose(admitted, memory_id)
        tag = self._writer.tag(admitted, (memory,), idempotency_key, superseded=whose.memory_id)
        row = self._writer.sealed(person, new_memory_id(), memory)
        answer = self._config.ledger.supersede(admitted.predicate, whose, row, tag, admitted.draft)
        match answer:
            case Superseded(memory_id=stored, generation=generation):
                failpoints.reach("supersede.committed")
                self._show(person, row, generation, superseded=whose.memory_id)
                return stored
            case KeyConflict():
                raise IdempotencyConflictError
            case Absent() | QuotaRefusal() | TenantRefused():
                raise self._refused(admitted, answer)
            case _:
                assert_never(answer)

    def undelete(self, admitted: Admitted, memory_id: str) -> bool:
        """Bring back a deleted memory; `False` for one that is not there to be brought back.

        Raises:
            QuotaExceededError: It does not fit any more; it stays deleted.
            AuthenticationError, PermissionDeniedError, ProviderUnavailableError: As `update`.
        """
        answer = self._config.ledger.undelete(
            admitted.predicate,
            self._whose(admitted, memory_id),
            retention=self._config.deleted_retention,
            audit=admitted.draft,
        )
        match answer:
            case Undeleted():
                # Its subject has a new generation: every reader's next look fetches what it lacks.
                failpoints.reach("undelete.committed")
                return True
            case Absent():
                return False
            case QuotaRefusal() | TenantRefused():
                raise self._refused(admitted, answer)
            case _:
                assert_never(answer)

    def history(self, admitted: Admitted, memory_id: str) -> list[MemoryChange]:
        """A memory's changes, oldest first; none for one that is absent, foreign or not the caller's.

        Raises:
            QuotaExceededError: The tenant may not read any more in this period.
            AuthenticationError, PermissionDeniedError, ProviderUnavailableError: As `update`.
        """
        answer = self._config.ledger.history(admitted.predicate, self._whose(admitted, memory_id), admitted.draft)
        match answer:
            case Told(changes=changes):
                return [*changes]
            case QuotaRefusal() | TenantRefused():
                raise self._refused(admitted, answer)
            case _:
                assert_never(answer)

    def page(
        self, admitted: Admitted, user_id: str, request: SearchRequest, *, limit: int, cursor: object
    ) -> MemoryPage:
        """A page of a person's memories that pass the filter.

        Raises:
            InvalidFilterError: The cursor is none of this person and filter.
            QuotaExceededError, AuthenticationError, PermissionDeniedError, ProviderUnavailableError: As `history`.
        """
        person = self._reader.person(admitted, user_id)
        cursors = Cursors(_cursor_secret(person)) if person is not None else None
        walk = walk_of(user_id, request)
        after = None
        if cursor is not None:
            if cursors is None:
                raise InvalidFilterError(place="cursor", reason="is none of this walk; begin again without a cursor")
            after = cursors.position(cursor, walk)
        more: Position | None = None

        def choose(snapshot: SubjectSnapshot) -> list[str]:
            nonlocal more
            ids, more = page_of(self._passing(snapshot, request).items(), after=after, limit=limit)
            return ids

        def gone() -> None:
            nonlocal more
            more = None

        memories = self._reader.answer(admitted, person, choose, include_invalid=request.include_invalid, gone=gone)
        # Where it goes on was decided by what the page was chosen from, not by what the ledger then left of it.
        following = cursors.cursor(more, walk) if cursors is not None and more is not None else None
        return MemoryPage(tuple(memories), following)

    def count(self, admitted: Admitted, user_id: str, request: SearchRequest) -> int:
        """How many memories of a person pass the filter.

        Raises:
            As `history`.
        """
        counted = 0

        def tell(number: int) -> None:
            nonlocal counted
            admitted.draft.details["counted"] = counted = number

        def choose(snapshot: SubjectSnapshot) -> tuple[str, ...]:
            tell(len(self._passing(snapshot, request)))
            return ()

        tell(0)
        self._reader.answer(admitted, self._reader.person(admitted, user_id), choose, gone=lambda: tell(0))
        return counted

    def _passing(self, snapshot: SubjectSnapshot, request: SearchRequest) -> dict[str, HotMemory]:
        now, passes = self._config.clock(), tester(request.predicate)
        return {
            memory_id: memory
            for memory_id, memory in snapshot.memories.items()
            if (request.include_invalid or memory.valid_at(now)) and passes(memory)
        }

    def _whose(self, admitted: Admitted, memory_id: object) -> Whose:
        # A malformed id takes the same way as an unknown one: the answer and its event are the ledger's.
        known = parse_memory_id(memory_id) or new_memory_id()
        return Whose(known, admitted.only_own, self._writer.own_subject(admitted))

    def _present(self, admitted: Admitted, whose: Whose) -> tuple[SubjectKey, SubjectSnapshot] | None:
        """The person that a memory is of, with everything acknowledged before; `None` if there is no such memory."""
        located = self._config.ledger.locate(
            admitted.predicate,
            whose.memory_id,
            restricted=whose.restricted,
            own_subject_id=whose.own_subject_id,
        )
        match located:
            case Located(subject_id=subject_id, generation=generation):
                if subject_id is None:
                    return None
                person = self._config.keyring.subject_key(admitted.scope.tenant_id, subject_id)
                if person is None:
                    return None
                return person, self._loader.at_least(admitted.predicate, person, generation)
            case TenantRefused(reason=reason):
                raise refusal(admitted, reason)
            case _:
                assert_never(located)

    def _absent(self, admitted: Admitted, counts: Mapping[str, int]) -> MemoryNotFoundError:
        """The error for a memory that was looked for before the ledger was asked to change it; it is recorded."""
        self._writer.served(admitted)
        self._audit.record(admitted.scope.tenant_id, admitted.draft, Outcome.ALLOWED, reason="not_found", counts=counts)
        return MemoryNotFoundError()

    def _refused(self, admitted: Admitted, answer: Absent | QuotaRefusal | TenantRefused) -> LuminescentError:
        match answer:
            case Absent():
                return MemoryNotFoundError()
            case QuotaRefusal():
                return self._writer.full(admitted, answer)
            case TenantRefused(reason=reason):
                return refusal(admitted, reason)
            case _:
                assert_never(answer)

    def _show(self, person: SubjectKey, row: SealedRow, generation: int | None, *, superseded: str | None) -> None:
        """Let this process's next reader find what was written, without a load."""
        if generation is None:
            return
        if superseded is None:
            self._loader.advance(generation, (row,), person)
        else:
            self._loader.supersede(generation, row, superseded, person)


def _cursor_secret(person: SubjectKey) -> bytes:
    # Of the person's own key: another person's cursor opens nothing, an erasure ends them all, and rotating the
    # tenant's key, which wraps this one, leaves walks alone.
    return hmac.digest(person.key, b"luminescent cursors 1", "sha256")
