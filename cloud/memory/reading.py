"""Reading memories: ranked in this process, admitted and recorded by the control plane, answered from memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, assert_never

import numpy as np
from numpy.typing import NDArray

from cloud.kernel import telemetry, telemetry_names
from cloud.kernel.errors import ProviderUnavailableError, TenantIsolationError
from cloud.kernel.ids import parse_memory_id
from cloud.keys.model import SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.model import SubjectSnapshot
from cloud.memory.ports import Located, ReadAdmitted, Stale, SubjectGone, TenantRefused
from cloud.memory.snapshots import SnapshotLoader
from cloud.memory.writing import refusal
from cloud.tenancy.admission import Admitted
from cloud.usage.ports import QuotaRefusal
from src.memory.filters import SearchRequest
from src.memory.predicates import tester
from src.memory.schemas import Memory

_ATTEMPTS: Final = 6
Choice = Callable[[SubjectSnapshot], Sequence[str]]
"""Chooses ids of a snapshot, best first."""


class MemoryReader:
    """Retrieves, searches and gets memories for admitted callers."""

    def __init__(self, config: PixeltableConfig, loader: SnapshotLoader) -> None:
        self._config = config
        self._loader = loader

    def retrieve(self, admitted: Admitted, query: str, user_id: str, limit: int) -> list[Memory]:
        """The memories of a person that fit `query` best.

        Raises:
            AuthenticationError: There is no such tenant.
            PermissionDeniedError: The tenant is not active.
            QuotaExceededError: The tenant's reads of this month are used up.
            ProviderUnavailableError: A plane did not answer.
        """

        def choose(snapshot: SubjectSnapshot) -> list[str]:
            vector = self._embedded(query, snapshot)
            index = snapshot.index.without(snapshot.invalid_at(self._config.clock()))
            ranked = index.rank(query, vector, limit=limit, weights=self._config.weights)
            return [scored.id for scored in ranked]

        return self.answer(admitted, self.person(admitted, user_id), choose)

    def search(self, admitted: Admitted, user_id: str, request: SearchRequest, limit: int) -> list[Memory]:
        """The memories of a person that pass the filter: newest first, or ranked if the request has a query.

        Raises:
            As `retrieve`.
        """
        passes = tester(request.predicate)

        def choose(snapshot: SubjectSnapshot) -> list[str]:
            # What has expired neither counts in statistics nor lends to its neighbours, unless it is asked for.
            invalid = set() if request.include_invalid else snapshot.invalid_at(self._config.clock())
            if request.query is None:
                newest = (memory.memory_id for memory in filter(passes, snapshot.newest_first()))
                return list(islice((memory_id for memory_id in newest if memory_id not in invalid), limit))
            found = filter(passes, snapshot.memories.values())
            ranked = snapshot.index.without(invalid).rank(
                request.query,
                self._embedded(request.query, snapshot),
                limit=limit,
                allowed={memory.memory_id for memory in found} - invalid,
                weights=self._config.weights,
            )
            return [scored.id for scored in ranked]

        return self.answer(admitted, self.person(admitted, user_id), choose, include_invalid=request.include_invalid)

    def get(self, admitted: Admitted, memory_id: str, own_subject_id: str | None) -> Memory | None:
        """One memory; `None` for one that is absent, foreign, or not the caller's, all alike.

        Raises:
            As `retrieve`.
        """
        known = parse_memory_id(memory_id)
        person = self._owner(admitted, known, own_subject_id) if known is not None else None

        def choose(snapshot: SubjectSnapshot) -> list[str]:
            return [known] if known is not None and known in snapshot.memories else []

        found = self.answer(admitted, person, choose)
        return found[0] if found else None

    def _owner(self, admitted: Admitted, memory_id: str, own_subject_id: str | None) -> SubjectKey | None:
        located = self._config.ledger.locate(
            admitted.predicate, memory_id, restricted=admitted.only_own, own_subject_id=own_subject_id
        )
        match located:
            case Located(subject_id=subject_id):
                if subject_id is None:
                    return None
                return self._config.keyring.subject_key(admitted.scope.tenant_id, subject_id)
            case TenantRefused(reason=reason):
                raise refusal(admitted, reason)
            case _:
                assert_never(located)

    def person(self, admitted: Admitted, user_id: str) -> SubjectKey | None:
        """The person of this user id, or `None` if nothing is known of them."""
        return self._config.keyring.resolve_subject(admitted.scope.tenant_id, user_id, create=False)

    def _embedded(self, query: str, snapshot: SubjectSnapshot) -> NDArray[np.int8]:
        """The query's vector of the snapshot's own model: whichever is read elsewhere by now, these two agree."""
        vector: NDArray[np.int8] = self._config.models.of(snapshot.model).embed([query])[0]
        return vector

    def answer(
        self,
        admitted: Admitted,
        person: SubjectKey | None,
        choose: Choice,
        *,
        include_invalid: bool = False,
        gone: Callable[[], None] = lambda: None,
    ) -> list[Memory]:
        """The chosen memories that the ledger admits; the read is recorded.

        Args:
            admitted: The operation.
            person: Whose memories.
            choose: Chooses among them; called again if they changed meanwhile.
            include_invalid: Whether expired ones may be chosen.
            gone: Called when the person turns out to be erased: whatever `choose` noted is void.

        Raises:
            As `retrieve`.
        """
        floor: int | None = None
        for _ in range(_ATTEMPTS):
            snapshot = self._loader.at_least(admitted.predicate, person, floor) if person else None
            ids = choose(snapshot) if snapshot else ()
            telemetry.count(telemetry_names.ATTEMPTS)
            telemetry.note(telemetry_names.CANDIDATES, len(snapshot.memories) if snapshot else 0)
            answer = self._config.ledger.read(
                admitted.predicate,
                person.subject_id if person else None,
                generation=snapshot.generation if snapshot else 0,
                floor=floor,
                ids=ids,
                include_invalid=include_invalid,
                audit=admitted.draft,
            )
            match answer:
                case ReadAdmitted(ids=admitted_ids):
                    telemetry.note(telemetry_names.RETURNED, len(admitted_ids))
                    return self._opened(admitted, snapshot, admitted_ids)
                case Stale(generation=generation):
                    if snapshot is not None and generation < snapshot.generation:
                        # The control plane was set back, as by a restore.
                        self._config.hot.drop(snapshot.tenant_id, snapshot.subject_id)
                    floor = generation
                case SubjectGone():
                    assert person is not None
                    self._config.hot.drop(person.tenant_id, person.subject_id)
                    self._config.keyring.forget(person.tenant_id, person.subject_id)
                    person = None
                    gone()
                case QuotaRefusal():
                    raise answer.error()
                case TenantRefused(reason=reason):
                    raise refusal(admitted, reason)
                case _:
                    assert_never(answer)
        raise ProviderUnavailableError("hot tier", reason="could not catch up with the subject's changes")

    def _opened(self, admitted: Admitted, snapshot: SubjectSnapshot | None, ids: Sequence[str]) -> list[Memory]:
        if snapshot is None:
            return []
        if snapshot.tenant_id != admitted.scope.tenant_id:
            raise TenantIsolationError("foreign_tenant")
        now = self._config.clock()
        self._config.read_times.note(admitted.predicate, snapshot.subject_id, ids, now)
        return [snapshot.memories[memory_id].opened(now) for memory_id in ids]
