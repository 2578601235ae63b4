"""Placements and moves in the control plane, changed as the maintenance role. Each change is one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from cloud.audit.model import AuditDraft, Outcome
from cloud.kernel.errors import OperationInProgressError, ProviderUnavailableError, UnknownTenantError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id
from cloud.memory.placements import Placement, PlacementState
from cloud.storage.engine import ControlEngine, Row
from cloud.storage.metadata import intake, memories, placement_moves, placements, subjects, tenants, usage_counters
from cloud.tenancy.placements import Move, MoveState
from cloud.tenancy.postgres import append_event

_BUMP: Final = 500


def placements_of(engine: ControlEngine, tenant_id: str) -> tuple[str, ...]:
    """Every table that may hold rows of a tenant, sorted: where it is, and where it was or is on its way to.

    Whoever removes rows removes them from all of these.

    Raises:
        UnknownTenantError: There is no such tenant.
    """
    where = placement_moves.c.tenant_id == tenant_id
    found = engine.rows(
        sa.union(
            sa.select(tenants.c.placement).where(tenants.c.tenant_id == tenant_id),
            sa.select(placement_moves.c.source).where(where),
            sa.select(placement_moves.c.target).where(where),
        )
    )
    if not found:
        raise UnknownTenantError
    return tuple(sorted(str(name) for (name,) in found))


def adopt(engine: ControlEngine, model: str) -> list[str]:
    """Every placement that a tenant is in has a row; those without one are read with `model`.

    Returns:
        The models that are read where it is another one, sorted.
    """

    def work(connection: sa.Connection) -> list[str]:
        connection.execute(
            insert(placements)
            .from_select(
                ["placement", "model"],
                sa.select(tenants.c.placement, sa.literal(model)).distinct().order_by(tenants.c.placement),
            )
            .on_conflict_do_nothing()
        )
        found = connection.execute(sa.select(placements.c.model).distinct().where(placements.c.model != model))
        return sorted(str(name) for name in found.scalars())

    return engine.transaction(work)


def model_of(engine: ControlEngine, placement: str, *, first: str) -> str:
    """The model that is read in a placement; `first` for one that nobody was given yet."""
    rows = engine.rows(sa.select(placements.c.model).where(placements.c.placement == placement))
    return str(rows[0][0]) if rows else first


class PlacementStore:
    """Placements and moves.

    Args:
        engine: Engine of the maintenance role.
    """

    def __init__(self, engine: ControlEngine) -> None:
        self._engine = engine

    # Moves

    def begin_move(self, tenant_id: str, target: str, intent: AuditDraft) -> Move:
        """Record the intent to move a tenant, or find the same move that is unfinished.

        Returns:
            The move; one that is `DONE` where the tenant is there already.

        Raises:
            UnknownTenantError: There is no such tenant.
            OperationInProgressError: It is on its way to another table.
        """

        def work(connection: sa.Connection) -> Move | str | None:
            _lock_tenant(connection, tenant_id)
            here = connection.execute(sa.select(tenants.c.placement).where(tenants.c.tenant_id == tenant_id)).scalar()
            if here is None:
                return None
            unfinished = connection.execute(
                sa.select(placement_moves)
                .where(placement_moves.c.tenant_id == tenant_id)
                .where(placement_moves.c.state != MoveState.DONE.value)
            ).one_or_none()
            if unfinished is not None:
                move = _move(unfinished)
                if move.target != target:
                    return move.target
                append_event(connection, tenant_id, intent, Outcome.ALLOWED, reason="resumed")
                return move
            if here == target:
                now = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
                append_event(connection, tenant_id, intent, Outcome.ALLOWED, reason="unchanged")
                return Move(new_event_id(), tenant_id, here, here, MoveState.DONE, 0, now, now)
            # A new table is read with the model that the tenant's memories are read with now.
            connection.execute(
                insert(placements)
                .from_select(
                    ["placement", "model"],
                    sa.select(sa.literal(target), placements.c.model).where(placements.c.placement == here),
                )
                .on_conflict_do_nothing()
            )
            row = connection.execute(
                sa.insert(placement_moves)
                .values(move_id=new_event_id(), tenant_id=tenant_id, source=here, target=target)
                .returning(placement_moves)
            ).one()
            append_event(connection, tenant_id, intent, Outcome.ALLOWED, reason="intent")
            return _move(row)

        found = self._engine.transaction(work)
        if found is None:
            raise UnknownTenantError
        if isinstance(found, str):
            raise OperationInProgressError(
                f"the tenant is on its way to {found}: let that end first, with the same command and --to {found}"
            )
        return found

    def unfinished_moves(self) -> list[Move]:
        """Moves that a process was killed in, or that one is at."""
        query = sa.select(placement_moves).where(placement_moves.c.state != MoveState.DONE.value)
        return [_move(row) for row in self._engine.rows(query.order_by(placement_moves.c.started_at))]

    def move(self, move_id: str) -> Move:
        """A move as it stands now."""
        (row,) = self._engine.rows(sa.select(placement_moves).where(placement_moves.c.move_id == move_id))
        return _move(row)

    def raise_epochs(self, move: Move) -> None:
        """From the commit on, no batch begun before clears intake of either table."""
        names = sorted((move.source, move.target))
        self._engine.transaction(
            lambda connection: connection.execute(
                sa.update(placements).where(placements.c.placement.in_(names)).values(epoch=placements.c.epoch + 1)
            )
        )

    def switch_move(self, move: Move, *, copied: int) -> Move:
        """In one transaction the tenant is in the target: its row, and what waits in intake.

        Raises:
            ProviderUnavailableError: The ledger holds more than was copied and waits: nothing was switched.
        """

        def work(connection: sa.Connection) -> Move:
            # No write of the tenant is under way now, and the next one finds the new placement.
            _lock_tenant(connection, move.tenant_id)
            waits = sa.exists().where(intake.c.memory_id == memories.c.memory_id)
            held = connection.execute(
                sa.select(sa.func.count())
                .select_from(memories)
                .where(memories.c.tenant_id == move.tenant_id, sa.not_(waits))
            ).scalar_one()
            if held > copied:
                raise ProviderUnavailableError("data plane", reason="lacks memories that the ledger holds")
            for table in (tenants, intake):
                connection.execute(
                    sa.update(table).where(table.c.tenant_id == move.tenant_id).values(placement=move.target)
                )
            return _updated_move(connection, move, state=MoveState.SWITCHED.value, copied=copied)

        return self._engine.transaction(work)

    def finish_move(self, move: Move, audit: AuditDraft) -> Move:
        """The move is over; its event commits with that."""

        def work(connection: sa.Connection) -> Move:
            done = _updated_move(connection, move, state=MoveState.DONE.value, finished_at=sa.func.clock_timestamp())
            append_event(connection, move.tenant_id, audit, Outcome.ALLOWED, counts={"rows": done.copied})
            return done

        return self._engine.transaction(work)

    # Placements

    def placements(self) -> list[Placement]:
        """All placements by name."""
        rows = self._engine.rows(sa.select(placements).order_by(placements.c.placement))
        return [_placement(row) for row in rows]

    def placement(self, name: str) -> Placement:
        """One placement as it stands now."""
        (row,) = self._engine.rows(sa.select(placements).where(placements.c.placement == name))
        return _placement(row)

    def tenants_in(self, name: str) -> list[str]:
        """The tenants that may have rows in a placement, by id: those that are in it, or on their way."""
        here = sa.select(tenants.c.tenant_id).where(tenants.c.placement == name)
        coming = sa.select(placement_moves.c.tenant_id).where(
            placement_moves.c.state != MoveState.DONE.value,
            sa.or_(placement_moves.c.source == name, placement_moves.c.target == name),
        )
        return sorted(str(tenant_id) for (tenant_id,) in self._engine.rows(sa.union(here, coming)))

    def placement_of(self, tenant_id: str) -> str:
        """The placement that a tenant is in.

        Raises:
            UnknownTenantError: There is no such tenant.
        """
        rows = self._engine.rows(sa.select(tenants.c.placement).where(tenants.c.tenant_id == tenant_id))
        if not rows:
            raise UnknownTenantError
        return str(rows[0][0])

    def change(
        self,
        placement: Placement,
        state: PlacementState,
        *,
        other_model: str | None = None,
        swap: bool = False,
        gate: Mapping[str, object] | None = None,
        audit: tuple[AuditDraft, Outcome, str | None] | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> Placement:
        """Change a placement's state if it is still as given; with `swap`, the other column is read from then on.

        Args:
            placement: As it was found.
            state: Its new state.
            other_model: The other column's model; as it was if left out, none when `state` is `SERVING`.
            swap: Whether the two columns change parts.
            gate: Numbers to keep.
            audit: An event that commits with it, its outcome and reason.
            counts: The event's counts.

        Raises:
            OperationInProgressError: Somebody else has changed it.
        """
        changed = replace(
            placement,
            state=state,
            other_model=None if state is PlacementState.SERVING else other_model or placement.other_model,
            gate=gate if gate is not None else placement.gate,
        )
        if swap:
            assert placement.other_model is not None
            changed = replace(
                changed, model=placement.other_model, column=placement.other_column, other_model=placement.model
            )

        def work(connection: sa.Connection) -> bool:
            done = connection.execute(
                sa.update(placements)
                .where(placements.c.placement == placement.name)
                .where(placements.c.state == placement.state.value, placements.c.model == placement.model)
                .values(
                    model=changed.model,
                    read_column=changed.column,
                    other_model=changed.other_model,
                    state=changed.state.value,
                    gate=changed.gate if changed.gate is not None else sa.null(),
                    changed_at=sa.func.clock_timestamp(),
                )
                .returning(placements.c.placement)
            ).scalar()
            if done is None:
                # An attempt whose answer was lost may have done it.
                query = sa.select(placements).where(placements.c.placement == placement.name)
                found = _placement(connection.execute(query).one())
                return replace(found, changed_at=None) == replace(changed, changed_at=None)
            if audit is not None:
                draft, outcome, reason = audit
                append_event(connection, SYSTEM_LOG, draft, outcome, reason=reason, counts=counts)
            return True

        if not self._engine.transaction(work):
            raise OperationInProgressError(
                f"another process is changing the embedding model of {placement.name}; look again in a moment"
            )
        return changed

    def people(self, tenant_id: str) -> list[str]:
        """Subject ids of a tenant's people who are active, by id."""
        query = sa.select(subjects.c.subject_id).where(subjects.c.tenant_id == tenant_id, subjects.c.state == "active")
        return [str(subject_id) for (subject_id,) in self._engine.rows(query.order_by(subjects.c.subject_id))]

    def make_stale(self, tenant_ids: Sequence[str]) -> None:
        """Snapshots that any process holds of these tenants' people are loaded again when next asked for."""
        for tenant_id in tenant_ids:
            people = self.people(tenant_id)
            for at in range(0, len(people), _BUMP):
                self._bump(tenant_id, people[at : at + _BUMP])

    def _bump(self, tenant_id: str, subject_ids: Sequence[str]) -> None:
        def work(connection: sa.Connection) -> None:
            # The same order of locks as a write's: the tenant's counter first.
            _lock_tenant(connection, tenant_id)
            connection.execute(
                sa.update(subjects)
                .where(subjects.c.tenant_id == tenant_id, subjects.c.subject_id.in_(subject_ids))
                .where(subjects.c.state == "active")
                .values(generation=subjects.c.generation + 1)
            )

        self._engine.transaction(work)


def _lock_tenant(connection: sa.Connection, tenant_id: str) -> None:
    connection.execute(
        sa.select(usage_counters.c.used)
        .where(usage_counters.c.tenant_id == tenant_id, usage_counters.c.meter == "memories")
        .with_for_update()
    )


def _updated_move(connection: sa.Connection, move: Move, **values: object) -> Move:
    row = connection.execute(
        sa.update(placement_moves)
        .where(placement_moves.c.tenant_id == move.tenant_id, placement_moves.c.move_id == move.move_id)
        .values(**values)
        .returning(placement_moves)
    ).one()
    return _move(row)


def _move(row: Row) -> Move:
    values = row._mapping
    return Move(
        move_id=str(values["move_id"]),
        tenant_id=values["tenant_id"],
        source=values["source"],
        target=values["target"],
        state=MoveState(values["state"]),
        copied=values["copied"],
        started_at=values["started_at"],
        finished_at=values["finished_at"],
    )


def _placement(row: Row) -> Placement:
    values = row._mapping
    return Placement(
        name=values["placement"],
        model=values["model"],
        column=values["read_column"],
        other_model=values["other_model"],
        state=PlacementState(values["state"]),
        gate=values["gate"],
        changed_at=values["changed_at"],
    )
