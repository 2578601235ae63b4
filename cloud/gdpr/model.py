"""Erasures and exports as values; the order of an erasure's steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cloud.gdpr.levels import LevelState


class ErasureState(StrEnum):
    """How far an erasure got. Each state is durable; a crash resumes at it.

    `FROZEN`: no operation finds or changes anything of the subject. `KEY_DESTROYED`: nothing of it can be read.
    `ROWS_DELETED`: no table holds a row of it. `VERIFIED`: that was checked, place by place. `INCOMPLETE`: the check
    found something; the erasure can be run again.
    """

    FROZEN = "frozen"
    KEY_DESTROYED = "key_destroyed"
    ROWS_DELETED = "rows_deleted"
    VERIFIED = "verified"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class ErasurePreview:
    """What an erasure would remove; nothing has changed.

    Attributes:
        tenant_id: The tenant.
        subject_id: The person's subject id, or `None` if nothing is kept of the person.
        counts: What was found, by entry of the data map.
    """

    tenant_id: str
    subject_id: str | None
    counts: Mapping[str, int]

    @property
    def memories(self) -> int:
        """How many memories would go."""
        return self.counts.get("control.memories", 0)


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure that was confirmed, and how far it got.

    Attributes:
        erasure_id: Its id.
        tenant_id: The tenant.
        subject_id: The subject that was erased; `None` if nothing was kept of the person.
        state: How far it got.
        counts: What was removed, by entry of the data map.
        requested_at: When it was confirmed (UTC).
        completed_at: When it was verified (UTC).
        levels: What was measured of its levels; those that are left out are to come, nobody can say when.
        commitment: The sealed commitment to the person, made while the caller named it; `None` if nobody did.
        certificate: The last certificate, as it is kept or as it was handed out; `None` if there is none yet.
    """

    erasure_id: str
    tenant_id: str
    subject_id: str | None
    state: ErasureState
    counts: Mapping[str, int]
    requested_at: datetime
    completed_at: datetime | None
    levels: tuple[LevelState, ...] = ()
    commitment: bytes | None = field(default=None, repr=False)
    certificate: str | None = field(default=None, repr=False)

    @property
    def memories(self) -> int:
        """How many memories were removed."""
        return self.counts.get("control.memories", 0)


@dataclass(frozen=True, slots=True)
class ClosingPreview:
    """What closing a tenant would erase; nothing has changed.

    Attributes:
        tenant_id: The tenant.
        counts: What was found, by entry of the data map.
    """

    tenant_id: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClosedTenant:
    """A tenant that is closed: nothing of its people is left.

    Attributes:
        tenant_id: Its name, which is not given again.
        counts: What was erased, by entry of the data map.
    """

    tenant_id: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ExportBundle:
    """What was written about a person.

    Attributes:
        directory: Where.
        files: Names of the files in it.
        counts: Records by kind.
    """

    directory: Path
    files: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
