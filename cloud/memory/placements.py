"""Placements as values: the two embedding columns of a table of memories, and how far a change of models got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

COLUMNS: Final = ("embedding", "embedding_2")


class PlacementState(StrEnum):
    """What happens to the two embedding columns of a placement.

    `SERVING`: one model, the other column is empty. `FILLING`: the other column is being filled. `FILLED`: both are
    complete. `SWITCHING`: the other one is read from now on, and snapshots of the earlier one are made stale.
    `SWITCHED`: both are complete, and going back takes one transaction. `EMPTYING`: the other column is being emptied.
    """

    SERVING = "serving"
    FILLING = "filling"
    FILLED = "filled"
    SWITCHING = "switching"
    SWITCHED = "switched"
    EMPTYING = "emptying"


@dataclass(frozen=True, slots=True)
class Placement:
    """A Pixeltable table of memories, and its embedding models.

    Attributes:
        name: The table.
        model: The model that is read.
        column: Its column.
        other_model: The model of the other column, if it has one.
        state: What happens to the columns.
        gate: Numbers of the last recall gate.
        changed_at: When any of this changed last (UTC).
    """

    name: str
    model: str
    column: str
    other_model: str | None
    state: PlacementState
    gate: Mapping[str, object] | None = field(default=None)
    changed_at: datetime | None = None

    @property
    def other_column(self) -> str:
        """The column that is not read."""
        return COLUMNS[1] if self.column == COLUMNS[0] else COLUMNS[0]

    @property
    def went_back(self) -> bool:
        """Whether the last switch was a rollback: the gate, which is kept with each switch, chose the other model."""
        switched = self.state in (PlacementState.SWITCHING, PlacementState.SWITCHED)
        return switched and self.gate is not None and self.gate.get("to") == self.other_model
