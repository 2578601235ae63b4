"""What a keyring tells about itself; no number and no id here says anything about one person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cloud.keys.model import KeyringCounts

Progress = Callable[[int, int], None]
"""Called with how many of how many keys are done."""


def no_progress(_done: int, _total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class KeyringBackup:
    """A backup of the keyring: while its file exists, it can bring back every key that it holds.

    Attributes:
        backup_id: Its id, also in its file.
        made_at: When (UTC).
        expires_at: When its file has to be deleted (UTC).
        epoch: The keyring's epoch in it.
        root_key_id: The root key that opens it.
        complete: Whether its file is known to be whole; one that was cut off may exist in part, sealed.
    """

    backup_id: str
    made_at: datetime
    expires_at: datetime
    epoch: int
    root_key_id: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did.

    Attributes:
        wrapped: Keys that are wrapped anew by this call.
        unreadable: Keys that opened under neither the old nor the new key: damaged before, and left as they are.
    """

    wrapped: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class SlotCheck:
    """Which keys were unwrapped to try, and how that went.

    Attributes:
        checked: Keys tried.
        unreadable: Keys that do not open.
        interrupted: Destructions that were cut off; the next use of such a key finishes them.
    """

    checked: int
    unreadable: int
    interrupted: int


@dataclass(frozen=True, slots=True)
class KeyringMark:
    """By what a keyring is recognized.

    Attributes:
        keyring_id: 32 hexadecimal digits.
        epoch: How often it was changed; a copy from earlier has a smaller one.
        root_key_id: The root key it is under.
    """

    keyring_id: str
    epoch: int
    root_key_id: str


@dataclass(frozen=True, slots=True)
class KeyringStatus:
    """A keyring at one moment.

    Attributes:
        mark: By what it is recognized.
        format: Version of its index.
        next_root_key_id: The root key it is moving to.
        rotating_tenants: Tenants whose rotation has begun and not ended.
        rotated_at: When the last rotation ended.
        counts: How full it is.
        open_in: In how many processes it is open, this one included.
        backups: Its backups, oldest first.
    """

    mark: KeyringMark
    format: int
    next_root_key_id: str | None
    rotating_tenants: tuple[str, ...]
    rotated_at: datetime | None
    counts: KeyringCounts
    open_in: int
    backups: tuple[KeyringBackup, ...]
