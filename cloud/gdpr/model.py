"""Erasures and exports as values; the order of an erasure's steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final


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
    """

    erasure_id: str
    tenant_id: str
    subject_id: str | None
    state: ErasureState
    counts: Mapping[str, int]
    requested_at: datetime
    completed_at: datetime | None

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


ExportProgress = Callable[[str, int, int | None], None]
"""Is told what is being written, how many records of it are, and of how many if that is known."""

NOTHING_SAID: Final[Mapping[str, str]] = MappingProxyType({})


def quiet(_: str, __: int, ___: int | None) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is to be written about whom, and where to.

    Attributes:
        user_id: The person.
        destination: A directory that is empty or missing; with recipients, a file that does not exist.
        recipients: Public keys of age or SSH, if it is to be encrypted.
        notice: What the controller has to tell the person, by topic of `cloud.gdpr.information.TOPICS`.
        progress: Is told how far it is.
    """

    user_id: str = field(repr=False)
    destination: Path
    recipients: tuple[str, ...] = ()
    notice: Mapping[str, str] = field(default_factory=lambda: NOTHING_SAID, repr=False)
    progress: ExportProgress = quiet


@dataclass(frozen=True, slots=True)
class ExportBundle:
    """What was written about a person.

    Attributes:
        directory: Where.
        files: Names of the files in it.
        counts: Records by kind.
        encrypted: Whether it is one archive, encrypted to the recipients' keys, instead of files in the clear.
    """

    directory: Path
    files: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    encrypted: bool = False
