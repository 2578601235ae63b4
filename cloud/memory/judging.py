"""Asks the recall gate's questions of a placement whose two columns are filled with two models.

Memories are opened in this process's memory alone, as system work; each tenant's log says that it happened, with
numbers. Both models' vectors are those of the table, so the gate also sees that they open.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from cloud.audit.model import AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.kernel.access import Action
from cloud.kernel.errors import KeyDestroyedError
from cloud.kernel.scope import TenantPredicate
from cloud.keys.model import SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.gate import (
    PEOPLE_PER_TENANT,
    QUESTIONS_PER_TENANT,
    Comparison,
    Question,
    Ranks,
    compared,
    questions,
    ranks,
)
from cloud.memory.model import HotMemory, LedgerState, SealedRow
from cloud.memory.placement_store import PlacementStore
from cloud.memory.placements import Placement
from cloud.memory.snapshots import open_memory, open_vectors
from cloud.memory.vectors import Vectorizer

_SEED = 7
"""The same memories are asked the same questions, so that a refused migration is refused again."""


class Judge:
    """Compares the two models of a placement.

    Args:
        store: Tells the tenants and their people.
        config: The installation.
        audit: The log.
        predicate_for: Makes the predicate under which a tenant's rows are opened.
    """

    def __init__(
        self,
        store: PlacementStore,
        config: PixeltableConfig,
        audit: TransactionalAuditLogger,
        predicate_for: Callable[[str], TenantPredicate],
    ) -> None:
        self._store = store
        self._config = config
        self._audit = audit
        self._predicate_for = predicate_for

    def compare(self, placement: Placement, draft: AuditDraft, *, progress: Callable[[int, int], None]) -> Comparison:
        """What both models find of the same questions, over all tenants of a placement.

        Args:
            placement: The placement.
            draft: Of the migration that asks.
            progress: Told how many tenants of how many are judged.

        Raises:
            ProviderUnavailableError: A part did not answer.
        """
        old: list[Ranks] = []
        new: list[Ranks] = []
        tenants = self._store.tenants_in(placement.name)
        for done, tenant_id in enumerate(tenants, 1):
            mine = self._of_tenant(tenant_id, placement)
            asked = sum(len(found["mixed"]) for found, _ in mine)
            event = self._audit.draft(
                self._predicate_for(tenant_id).scope,
                Action.EMBEDDINGS_GATE,
                category=Category.ADMINISTRATION,
                details={"placement": placement.name, "migration": draft.event_id},
            )
            self._audit.record(tenant_id, event, Outcome.ALLOWED, counts={"people": len(mine), "questions": asked})
            old += [found for found, _ in mine]
            new += [found for _, found in mine]
            progress(done, len(tenants))
        return compared(old, new)

    def _of_tenant(self, tenant_id: str, placement: Placement) -> list[tuple[Ranks, Ranks]]:
        chance = random.Random(_SEED)  # noqa: S311 - a sample, not a secret
        people = self._store.people(tenant_id)
        found: list[tuple[Ranks, Ranks]] = []
        asked = 0
        for subject_id in chance.sample(people, min(len(people), PEOPLE_PER_TENANT)):
            both = self._of_person(tenant_id, subject_id, placement, chance)
            if both is not None:
                found.append(both)
                asked += len(both[0]["mixed"])
            if asked >= QUESTIONS_PER_TENANT:
                break
        return found

    def _of_person(
        self, tenant_id: str, subject_id: str, placement: Placement, chance: random.Random
    ) -> tuple[Ranks, Ranks] | None:
        assert placement.other_model is not None
        predicate = self._predicate_for(tenant_id)
        try:
            person = self._config.keyring.subject_key(tenant_id, subject_id)
        except KeyDestroyedError:
            return None
        if person is None:
            return None  # Erased since it was listed.
        changes = self._config.ledger.changes(predicate, subject_id, since=0)
        held = {row.memory_id: row.revision for row in changes.ledger if row.state is LedgerState.ACTIVE}
        sides = [
            {
                row.memory_id: row
                for row in self._config.rows.newer(predicate, placement.name, subject_id, since=0, column=column)
                if held.get(row.memory_id) == row.revision
            }
            for column in (placement.column, placement.other_column)
        ]
        # What came or went between the two looks is in neither.
        ids = sorted(sides[0].keys() & sides[1].keys())
        if not ids:
            return None
        vectorizers = [self._config.models.of(model) for model in (placement.model, placement.other_model)]
        memories = [open_memory(vectorizers[0], sides[0][memory_id], person.key) for memory_id in ids]
        asked = questions(memories, chance)
        old, new = (
            self._ranks(memories, [side[memory_id] for memory_id in ids], asked, vectorizer, person)
            for side, vectorizer in zip(sides, vectorizers, strict=True)
        )
        return old, new

    def _ranks(
        self,
        memories: list[HotMemory],
        rows: list[SealedRow],
        asked: list[Question],
        vectorizer: Vectorizer,
        person: SubjectKey,
    ) -> Ranks:
        vectors = open_vectors(vectorizer, rows, memories, person.key)
        return ranks(memories, vectors, asked, vectorizer.embed, self._config.weights)
