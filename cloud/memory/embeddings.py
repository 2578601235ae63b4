"""Changes the embedding model of placements while they are read and written.

A migration of one placement, each step durable before the next, each may be done again:

1. `FILLING`: the column that is not read gets the new model. From then on whoever writes fills both columns.
2. Page by page, the rows that are there are computed. `FILLED` once no row lacks a vector.
3. The recall gate compares both models on the tenants' own memories. A model that finds less is refused and its column
   is emptied.
4. `SWITCHING`: in one transaction the other column is the one that is read. Snapshots are made stale, tenant by tenant;
   until then they answer with the model that they were made with, consistent in themselves. `SWITCHED` afterwards.
5. Both columns stay filled, so that going back is step 4 again, once, until `finish` empties the one that is not read.

At every moment the column that is read has a vector of its model for every row. The first step of each command commits
with an event that says what is intended, so a kill leaves no change that the log does not know of.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError, OperationInProgressError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.kernel.scope import TenantPredicate
from cloud.memory.config import PixeltableConfig
from cloud.memory.gate import Comparison
from cloud.memory.judging import Judge
from cloud.memory.placement_store import PlacementStore
from cloud.memory.placements import Placement, PlacementState
from cloud.memory.ports import Columns
from cloud.storage.advisory import advisory_locks
from cloud.storage.engine import ControlEngine
from cloud.tenancy.administration import Administration
from src.memory.embedding import Embedder
from src.memory.scoring import RankingWeights

PAGE: Final = 500
TOLERANCE: Final = 0.02
_PASSES: Final = 5
_LOCK_SPACE: Final = 0x6C65  # 'le': the advisory locks of migrations

Labelled = Callable[[str, str], Comparison]
"""Compares two models by name on questions whose answers are known."""

Progress = Callable[[str, int, int], None]
"""Told what is done, and for how many tenants of how many."""


def _quiet(_what: str, _done: int, _total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """How the migration of one placement ended.

    Attributes:
        placement: The placement as it is now.
        outcome: `switched`, `refused` by the gate, or `unchanged`.
        tenants: The tenants that are in it.
        comparison: What the gate found, if it was asked.
    """

    placement: Placement
    outcome: str
    tenants: tuple[str, ...]
    comparison: Comparison | None = None


class Embeddings:
    """Migrates, switches back, finishes and tells how far each placement is.

    Args:
        engine: Engine of the maintenance role; holds the locks.
        store: Placements.
        columns: Pixeltable's part.
        config: The installation.
        admissions: The door.
        audit: The log.
        predicate_for: Makes the predicate under which a tenant's rows are computed.
    """

    def __init__(
        self,
        engine: ControlEngine,
        store: PlacementStore,
        columns: Columns,
        config: PixeltableConfig,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        predicate_for: Callable[[str], TenantPredicate],
    ) -> None:
        self._engine = engine
        self._store = store
        self._columns = columns
        self._config = config
        self._admissions = admissions
        self._audit = audit
        self._predicate_for = predicate_for
        self._judge = Judge(store, config, audit, predicate_for)

    @property
    def weights(self) -> RankingWeights:
        """How scores are mixed here."""
        return self._config.weights

    def embedder(self, model: str) -> Embedder:
        """A model by name.

        Raises:
            ConfigurationError: There is no such model.
        """
        return self._config.models.of(model).embedder

    @telemetry.operation()
    def status(self) -> list[Placement]:
        """Every placement, with the models of its columns and the numbers of its last gate.

        Raises:
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.EMBEDDINGS_STATUS)
        with recorded_failure(self._audit, draft):
            found = self._store.placements()
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={"placements": len(found)})
        return found

    @telemetry.operation()
    def chosen(self, tenant_ids: Sequence[str]) -> list[str]:
        """The placements of these tenants, or all of them if none is named, by name.

        Raises:
            PermissionDeniedError: The caller is no operator.
            UnknownTenantError: There is no such tenant.
        """
        draft = self._admissions.operate(Action.EMBEDDINGS_STATUS)
        with recorded_failure(self._audit, draft):
            if tenant_ids:
                found = sorted({self._store.placement_of(tenant_id) for tenant_id in tenant_ids})
            else:
                found = [placement.name for placement in self._store.placements()]
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={"placements": len(found)})
        return found

    @telemetry.operation()
    def migrate(
        self,
        placement: str,
        model: str,
        *,
        tolerance: float = TOLERANCE,
        labelled: Labelled | None = None,
        progress: Progress = _quiet,
    ) -> Migrated:
        """Read a placement's memories with another model, if the recall gate lets it; returns when that is so.

        A migration that was killed is continued by the same call.

        Args:
            placement: The placement.
            model: Name of the model.
            tolerance: What recall or MRR may be worse by, 0 to 1.
            labelled: Compares the models on known answers; asked besides the tenants' own memories.
            progress: Told what is done, `filling`, `judging` or `emptying`, and for how many tenants of how many.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: There is no such model, or another migration is unfinished.
            OperationInProgressError: Another process is at it.
            ProviderUnavailableError: A part did not answer; calling again continues.
        """
        draft = self._admissions.operate(Action.EMBEDDINGS_MIGRATE)
        draft = replace(draft, details={"placement": placement, "model": model})
        with recorded_failure(self._audit, draft):
            self._config.models.of(model)
            if not 0 <= tolerance <= 1:
                raise ConfigurationError("a tolerance is a number from 0 to 1")
            with self._alone(placement):
                return self._migrate(placement, model, draft, tolerance, labelled, progress)

    @telemetry.operation()
    def rollback(self, placement: str) -> Placement:
        """Read a placement's memories with the model that was read before; it is still complete.

        A rollback that was killed is finished by the same call; it never switches forward again.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: There is nothing to go back to, or it was gone back to already.
            OperationInProgressError: Another process is at it.
        """
        draft = self._admissions.operate(Action.EMBEDDINGS_ROLLBACK)
        draft = replace(draft, details={"placement": placement})
        with recorded_failure(self._audit, draft), self._alone(placement):
            found, step = self._store.placement(placement), _step(draft, Action.EMBEDDINGS_ROLLBACK_STEP)
            if found.state is PlacementState.SWITCHING and found.went_back:
                self._audit.record(SYSTEM_LOG, step, Outcome.ALLOWED, reason="resumed")
                return self._settled(found, audit=(draft, Outcome.ALLOWED, None))
            found = self._settled(found)
            if found.state is not PlacementState.SWITCHED:
                raise ConfigurationError(f"{placement} has no earlier model to go back to; it is {found.state.value}")
            if found.went_back:
                raise ConfigurationError(
                    f"{placement} was rolled back already and is read with {found.model}; "
                    f"to read it with {found.other_model} again: embeddings migrate --to {found.other_model}"
                )
            intent = (step, Outcome.ALLOWED, "intent")
            found = self._store.change(found, PlacementState.SWITCHING, swap=True, audit=intent)
            failpoints.reach("embeddings.switched")
            return self._settled(found, audit=(draft, Outcome.ALLOWED, None))

    @telemetry.operation()
    def finish(self, placement: str, *, progress: Progress = _quiet) -> Placement:
        """Empty the column that is not read; there is no way back afterwards.

        Args:
            placement: The placement.
            progress: Told that it is `emptying`, and for how many tenants of how many that is done.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: A migration is unfinished.
            OperationInProgressError: Another process is at it.
        """
        draft = self._admissions.operate(Action.EMBEDDINGS_FINISH)
        draft = replace(draft, details={"placement": placement})
        with recorded_failure(self._audit, draft), self._alone(placement):
            found = self._settled(self._store.placement(placement))
            step = _step(draft, Action.EMBEDDINGS_FINISH_STEP)
            match found.state:
                case PlacementState.SERVING:
                    self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, reason="unchanged")
                    return found
                case PlacementState.SWITCHED:
                    intent = (step, Outcome.ALLOWED, "intent")
                    found = self._store.change(found, PlacementState.EMPTYING, audit=intent)
                case PlacementState.EMPTYING:
                    self._audit.record(SYSTEM_LOG, step, Outcome.ALLOWED, reason="resumed")
                case _:
                    raise ConfigurationError(
                        f"{placement} is being migrated to {found.other_model}; let that end first: embeddings migrate"
                    )
            return self._emptied(found, progress, audit=(draft, Outcome.ALLOWED, None))

    def _migrate(
        self,
        name: str,
        model: str,
        draft: AuditDraft,
        tolerance: float,
        labelled: Labelled | None,
        progress: Progress,
    ) -> Migrated:
        found = self._settled(self._store.placement(name))
        if found.state is PlacementState.EMPTYING:
            found = self._emptied(found, progress)
        if found.model == model:
            if found.state in (PlacementState.FILLING, PlacementState.FILLED):
                raise ConfigurationError(_unfinished(found))
            self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, reason="unchanged")
            return self._ended(found, "unchanged")
        if found.other_model not in (None, model):
            raise ConfigurationError(_unfinished(found))
        intent = _step(draft, Action.EMBEDDINGS_MIGRATE_STEP)
        match found.state:
            case PlacementState.SERVING:
                begun = (intent, Outcome.ALLOWED, "intent")
                found = self._store.change(found, PlacementState.FILLING, other_model=model, audit=begun)
                failpoints.reach("embeddings.begun")
            case _:
                self._audit.record(SYSTEM_LOG, intent, Outcome.ALLOWED, reason="resumed")
        if found.state is PlacementState.FILLING:
            self._fill(found, model, progress)
            failpoints.reach("embeddings.backfilled")
            found = self._store.change(found, PlacementState.FILLED)
        comparison = self._judge.compare(found, draft, progress=partial(progress, "judging"))
        if labelled is not None:
            known = labelled(found.model, model)
            comparison = Comparison({**comparison.old, **known.old}, {**comparison.new, **known.new})
        failpoints.reach("embeddings.gated")
        passes = comparison.passes(tolerance)
        gate: dict[str, object] = {
            "from": found.model,
            "to": model,
            "tolerance": tolerance,
            "passed": passes,
            "rankings": comparison.document(),
        }
        counts = {"questions": comparison.questions}
        if not passes:
            found = self._store.change(found, PlacementState.EMPTYING, gate=gate)
            found = self._emptied(found, progress, audit=(draft, Outcome.DENIED, "recall_gate"), counts=counts)
            return self._ended(found, "refused", comparison)
        found = self._store.change(found, PlacementState.SWITCHING, swap=True, gate=gate)
        failpoints.reach("embeddings.switched")
        found = self._settled(found, audit=(draft, Outcome.ALLOWED, None), counts=counts)
        return self._ended(found, "switched", comparison)

    def _fill(self, placement: Placement, model: str, progress: Progress) -> None:
        """Every row of every tenant has a vector in the other column."""
        column = placement.other_column
        self._columns.name(placement.name, column, model)
        failpoints.reach("embeddings.column_added")
        # Tenants that come in meanwhile bring rows that are computed as they are written; once more finds that out.
        for _ in range(_PASSES):
            tenants = self._store.tenants_in(placement.name)
            for done, tenant_id in enumerate(tenants, 1):
                for _page in self._pages(tenant_id, placement.name, column, self._columns.compute):
                    failpoints.reach("embeddings.page_filled")
                progress("filling", done, len(tenants))
            if not any(self._lacking(tenant_id, placement) for tenant_id in self._store.tenants_in(placement.name)):
                return
        raise ProviderUnavailableError("data plane", reason="holds rows for which no vector could be computed")

    def _emptied(
        self,
        placement: Placement,
        progress: Progress,
        *,
        audit: tuple[AuditDraft, Outcome, str | None] | None = None,
        counts: dict[str, int] | None = None,
    ) -> Placement:
        """No row has a vector in the column that is not read, and none gets one."""
        self._columns.name(placement.name, placement.other_column, "")
        tenants = self._store.tenants_in(placement.name)
        for done, tenant_id in enumerate(tenants, 1):
            for _page in self._pages(tenant_id, placement.name, placement.other_column, self._columns.empty):
                failpoints.reach("embeddings.emptied")
            progress("emptying", done, len(tenants))
        return self._store.change(placement, PlacementState.SERVING, audit=audit, counts=counts)

    def _settled(
        self,
        placement: Placement,
        *,
        audit: tuple[AuditDraft, Outcome, str | None] | None = None,
        counts: dict[str, int] | None = None,
    ) -> Placement:
        """A switch that was committed has reached every process."""
        if placement.state is not PlacementState.SWITCHING:
            return placement
        self._store.make_stale(self._store.tenants_in(placement.name))
        failpoints.reach("embeddings.made_stale")
        return self._store.change(placement, PlacementState.SWITCHED, audit=audit, counts=counts)

    def _pages(
        self, tenant_id: str, placement: str, column: str, work: Callable[..., str | None]
    ) -> Iterator[str | None]:
        """Does page after page of a tenant's rows; the last id of each, and `None` at the end."""
        predicate, after = self._predicate_for(tenant_id), ""
        while True:
            last = work(predicate, placement, column, after=after, limit=PAGE)
            yield last
            if last is None:
                return
            after = last

    def _lacking(self, tenant_id: str, placement: Placement) -> int:
        predicate = self._predicate_for(tenant_id)
        return self._columns.lacking(predicate, placement.name, placement.other_column, beside=placement.column)

    def _ended(self, placement: Placement, outcome: str, comparison: Comparison | None = None) -> Migrated:
        return Migrated(placement, outcome, tuple(self._store.tenants_in(placement.name)), comparison)

    @contextmanager
    def _alone(self, placement: str) -> Iterator[None]:
        if placement not in {known.name for known in self._store.placements()}:
            raise ConfigurationError(f"there is no placement {placement!r}; embeddings status lists them")
        key = (_LOCK_SPACE, zlib.crc32(placement.encode()) - 2**31)
        with advisory_locks(self._engine, [key], wait_s=0.0) as held:
            if not held:
                raise OperationInProgressError(f"another process is changing the embedding model of {placement}")
            yield


def _step(draft: AuditDraft, action: Action) -> AuditDraft:
    return replace(draft, action=action, event_id=new_event_id())


def _unfinished(placement: Placement) -> str:
    other = placement.other_model
    if placement.went_back:
        return f"{placement.name} still keeps the vectors of {other}: first embeddings finish"
    if placement.state is PlacementState.SWITCHED:
        return f"{placement.name} still keeps the vectors of {other}: first embeddings finish, or rollback"
    return f"{placement.name} is being migrated to {other}; let that end first: embeddings migrate --to {other}"
