"""Erasures, holds and exports as values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cloud.gdpr.levels import Level, LevelState


class ErasureState(StrEnum):
    """How far a request for erasure got. Each state is durable; a crash resumes at it.

    `RECEIVED`: it is known, and its month runs. `IDENTITY_VERIFIED`: whoever asks is that person. `PREVIEWED`: somebody
    looked at what would go. `HELD`: it was confirmed, and a legal hold keeps it. `CONFIRMED`: nothing keeps it now.
    `FROZEN`: no operation finds or changes anything of the subject. `KEY_DESTROYED`: nothing of it can be read.
    `ROWS_DELETED`: no table holds a row of it. `STORAGE_REWRITTEN`: files and write-ahead log hold no remains; where
    that is done later, it is a level of an erasure that is certified already. `VERIFIED`: that was checked, place by
    place. `CERTIFIED`: there is a signed certificate. `FAILED`: a step did not succeed; it can be run again.
    `REJECTED`: nothing is erased, for a reason. `CANCELLED`: it was withdrawn before it was confirmed.
    """

    RECEIVED = "received"
    IDENTITY_VERIFIED = "identity_verified"
    PREVIEWED = "previewed"
    HELD = "held"
    CONFIRMED = "confirmed"
    FROZEN = "frozen"
    KEY_DESTROYED = "key_destroyed"
    ROWS_DELETED = "rows_deleted"
    STORAGE_REWRITTEN = "storage_rewritten"
    VERIFIED = "verified"
    CERTIFIED = "certified"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


PREVIEWED: Final = ("control.memories", "control.memory_changes", "control.api_keys", "control.idempotency_keys")
"""What a confirmation answers for. The other places change by themselves, as memories are materialized or cached."""


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

    @property
    def digest(self) -> str:
        """Stands for what was seen: 64 hex digits; another one as soon as something came, changed or went."""
        seen = [self.tenant_id, self.subject_id, [self.counts.get(name, 0) for name in PREVIEWED]]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Erasure:
    """A request for the erasure of a person, or the closing of a tenant, and how far it got.

    Attributes:
        erasure_id: Its id.
        tenant_id: The tenant.
        subject_id: The subject that is erased; `None` if nothing was kept of the person, and for a whole tenant.
        state: How far it got.
        counts: What was removed, by entry of the data map.
        requested_at: When it was recorded here (UTC).
        completed_at: When it was verified (UTC).
        received_at: When the person asked (UTC).
        due_at: Until when it must be done, without an extension (UTC).
        extended_until: Until when after an extension (UTC).
        extension_notified_at: When the person was told of the extension and its reasons (UTC).
        identity_verified_at: When it was established that the person asks (UTC).
        identity_method: How, as a short code.
        previewed_at: When somebody looked at what would go (UTC).
        preview_digest: What was seen then, as `ErasurePreview.digest`.
        confirmed_at: When it was confirmed (UTC).
        confirmed_by: Who did, as the audit log names actors.
        failed_step: The state that could not be reached, if it failed.
        levels: How deep it went, by level; a level that is missing was not measured.
        certificate: The newest certificate, as it is kept; as it is handed out in what callers get.
        commitment_sealed: The certificate's commitment to the user id, made when it was confirmed; `None` if nobody
            named the person.
        whole_tenant: Whether it is the closing of the tenant: everybody of it is erased.
    """

    erasure_id: str
    tenant_id: str
    subject_id: str | None
    state: ErasureState
    counts: Mapping[str, int]
    requested_at: datetime
    completed_at: datetime | None
    received_at: datetime | None = None
    due_at: datetime | None = None
    extended_until: datetime | None = None
    extension_notified_at: datetime | None = None
    identity_verified_at: datetime | None = None
    identity_method: str | None = None
    previewed_at: datetime | None = None
    preview_digest: str | None = None
    confirmed_at: datetime | None = None
    confirmed_by: str | None = None
    failed_step: str | None = None
    levels: Mapping[Level, LevelState] = field(default_factory=dict)
    certificate: str | None = field(default=None, repr=False)
    commitment_sealed: bytes | None = field(default=None, repr=False)
    whole_tenant: bool = False

    @property
    def memories(self) -> int:
        """How many memories were removed."""
        return self.counts.get("control.memories", 0)

    @property
    def is_done(self) -> bool:
        """Whether nothing of the person is left, and that was checked."""
        return self.state in (ErasureState.VERIFIED, ErasureState.CERTIFIED)

    @property
    def deadline(self) -> datetime | None:
        """Until when it must be done, with an extension (UTC); `None` for one that was never requested."""
        return self.extended_until or self.due_at


@dataclass(frozen=True, slots=True)
class ToldRequest:
    """A request with what people wrote about it, for who may read that.

    Attributes:
        erasure: The request.
        reason: Why it was made; `None` if nobody said, or the tenant's key is gone.
        extension_reason: Why it takes longer.
        closing_reason: Why it was rejected or cancelled.
    """

    erasure: Erasure
    reason: str | None
    extension_reason: str | None
    closing_reason: str | None


@dataclass(frozen=True, slots=True)
class LegalHold:
    """Something that must be kept: nothing of it is erased, purged or closed.

    Attributes:
        hold_id: Its id.
        tenant_id: The tenant.
        subject_id: The person; `None` for the whole tenant.
        reason: Why; `None` where it cannot be read any more.
        authority: Who demands it, such as a court and its file number.
        review_at: When somebody must look whether it is still needed (UTC).
        placed_at: Since when (UTC).
        released_at: Until when (UTC); `None` while it holds.
    """

    hold_id: str
    tenant_id: str
    subject_id: str | None
    reason: str | None
    authority: str | None
    review_at: datetime
    placed_at: datetime
    released_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ClosingPreview:
    """What closing a tenant would erase; nothing has changed.

    Attributes:
        tenant_id: The tenant.
        counts: What was found, by entry of the data map.
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
