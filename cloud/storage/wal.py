"""The write-ahead log of before is removed: closed, checkpointed, and looked for until no file of it is there.

The log holds every row that was written, deleted ones too. A segment is removed by a checkpoint once nothing needs it;
with `wal_recycle` on it becomes a future segment instead, with its bytes in it. Every segment that was there at the
beginning has to be gone, the future ones too: before the setting was made they may have been recycled ones.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import psycopg

from cloud.storage.upkeep import Session, scalar

_ROUNDS: Final = 40
_PAUSE_S: Final = 0.05
_OLDEST: Final = "SELECT min(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"
_NEWEST: Final = "SELECT max(name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'"


@dataclass(frozen=True, slots=True)
class WalCleared:
    """What came of it.

    Attributes:
        position: Where the log stood when everything to be removed had been written.
        oldest_segment: The oldest segment that is kept now; begins after that position if it is cleared.
        rounds: How often it was closed and checkpointed.
        obstacle: Why the log of before cannot be said to be gone, or `None`.
        taken_ms: How long it took.
    """

    position: str
    oldest_segment: str
    rounds: int
    obstacle: str | None
    taken_ms: int


def clear_wal(connection: Session) -> WalCleared:
    """Remove the log of everything that is committed now; keeps nobody waiting, though a checkpoint uses the disk.

    Args:
        connection: As the maintenance role, which may close segments, write checkpoints and list the files.
    """
    began_s = time.monotonic()
    position = str(scalar(connection, "SELECT pg_current_wal_insert_lsn()::text"))
    try:
        obstacle = _obstacle(connection)
        last_of_before, rounds = str(scalar(connection, _NEWEST)), 0
        while (oldest := str(scalar(connection, _OLDEST))) <= last_of_before and obstacle is None:
            if rounds == _ROUNDS:
                obstacle = f"segments are kept though nothing is known to need them: {oldest} is still there"
                break
            rounds += 1
            scalar(connection, "SELECT pg_switch_wal()::text")
            connection.execute(b"CHECKPOINT")
            time.sleep(_PAUSE_S * (rounds > 2))
    except psycopg.errors.InsufficientPrivilege:
        obstacle = (
            f"role '{connection.info.user}' may not close, checkpoint or list the write-ahead log; "
            "infra/postgres/roles.sql grants it where the server's superuser runs it"
        )
        return WalCleared(position, "", 0, obstacle, _since_ms(began_s))
    return WalCleared(position, oldest, rounds, obstacle, _since_ms(began_s))


def _obstacle(connection: Session) -> str | None:
    """What keeps copies of the log where no checkpoint reaches them."""
    if scalar(connection, "SELECT current_setting('wal_recycle')") != "off":
        return "wal_recycle is on: segments of before are kept under new names; set it to off"
    if scalar(connection, "SELECT current_setting('archive_mode')") != "off":
        return "archive_mode is on: segments are copied to an archive that is not known here"
    if slots := int(scalar(connection, "SELECT count(*) FROM pg_replication_slots")):
        return f"{slots} replication slots hold segments back, or have handed them on to other servers"
    return None


def _since_ms(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)
