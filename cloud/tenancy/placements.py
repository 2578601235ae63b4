"""Which table a tenant's memories are in: names of placements, and moves between them, as values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cloud.kernel.errors import ConfigurationError
from cloud.tenancy.model import POOL_SIZE, pooled_placement

Progress = Callable[[int, int], None]
"""Told how many of how many rows are done."""


def own_placement(tenant_id: str) -> str:
    """The name of a table of the tenant's own; it says nothing about the tenant."""
    return f"own_{hashlib.sha256(tenant_id.encode()).hexdigest()[:20]}"


def named_placement(tenant_id: str, wanted: str) -> str:
    """The placement that `wanted` means for a tenant: `own`, `pooled`, or the name of either sort of table.

    Raises:
        ConfigurationError: It is none, or another tenant's own.
    """
    own, pools = own_placement(tenant_id), [f"pool_{number:02d}" for number in range(POOL_SIZE)]
    match wanted:
        case "own":
            return own
        case "pooled":
            return pooled_placement(tenant_id)
        case _ if wanted == own or wanted in pools:
            return wanted
        case _:
            raise ConfigurationError(
                f"a placement is 'own', 'pooled', or one of {pools[0]} to {pools[-1]}; it names a table of memories"
            )


class MoveState(StrEnum):
    """How far a move got. Each state is durable; whoever continues it begins there."""

    COPYING = "copying"
    SWITCHED = "switched"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Move:
    """A tenant's move from one table to another.

    Attributes:
        move_id: Its id.
        tenant_id: The tenant.
        source: The table it leaves.
        target: The table it goes to; the same as `source` where there was nothing to do.
        state: How far it got.
        copied: Rows that are in the target by this move.
        started_at: When it began (UTC).
        finished_at: When nothing of the tenant was left in the source (UTC).
    """

    move_id: str
    tenant_id: str
    source: str
    target: str
    state: MoveState
    copied: int
    started_at: datetime
    finished_at: datetime | None
