"""Types of the keyring and the pure rules about them: places, link tags, the layout of a slot.

Rules kept here:

- A key never shows in a `repr`.
- Every encoding that is authenticated is length-prefixed, so two different places never encode alike.
- A slot is `state ‖ payload ‖ padding` in 256 bytes, a divisor of every sector size in use: a slot never lies on two
  sectors, so a power failure leaves the old slot or the new one. It has room for a key wrapped by a key management
  service, whose answers are longer than ours.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

KEY_BYTES: Final = 32
SEAL_FORMAT: Final = 1
"""Version of a sealed value; its first byte, and part of what is authenticated."""
TAG_BYTES: Final = 32
SLOT_BYTES: Final = 256
_LINK_DOMAIN: Final = b"luminescent subject link 1"
_LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sealed value belongs; it opens nowhere else.

    Attributes:
        tenant_id: The tenant whose value it is.
        subject_id: The subject whose value it is; empty for a value of the tenant itself.
        record_id: The row that holds it, such as a memory id.
        kind: What it is: `envelope`, `embedding`, `api_key_user`, `audit_text`, `reason` and the like.
    """

    tenant_id: str
    subject_id: str
    record_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """The data key of one subject: 32 bytes that seal everything that is known about the person."""

    tenant_id: str
    subject_id: str
    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        require_key(self.key)


@dataclass(frozen=True, slots=True)
class TenantKey:
    """The key of one tenant: it wraps the data keys of its subjects and seals the tenant's own values.

    Attributes:
        tenant_id: The tenant.
        key: The present key: what is sealed now is sealed under it.
        former: Its earlier keys, oldest first. They open what was sealed before a rotation, and seal nothing.
    """

    tenant_id: str
    key: bytes = field(repr=False)
    former: tuple[bytes, ...] = field(repr=False, default=())

    def __post_init__(self) -> None:
        for key in self.versions:
            require_key(key)

    @property
    def versions(self) -> tuple[bytes, ...]:
        """All its keys, newest first: whoever opens a sealed value tries them in this order."""
        return (self.key, *reversed(self.former))

    @property
    def first(self) -> bytes:
        """The key that it began with; equal before and after a rotation.

        For keyed hashes, which can be compared with earlier ones only while the key stays the same.
        """
        return self.former[0] if self.former else self.key


@dataclass(frozen=True, slots=True)
class KeyringCounts:
    """How full a keyring is, for `status`; no number says anything about one person."""

    tenants: int
    subjects: int
    spares: int
    free_slots: int


@dataclass(frozen=True, slots=True)
class KeyTraces:
    """What the keyring's files hold of one subject; it opens nothing without the keys above.

    Attributes:
        wrapped: The subject's wrapped data key.
        tag: The link tag of its user id.
    """

    wrapped: bytes = field(repr=False)
    tag: bytes = field(repr=False)


class SlotState(IntEnum):
    """First byte of a slot.

    `DESTROYED` is written together with random bytes over the whole slot. It tells a destroyed key from a damaged
    one: what was destroyed on purpose may be forgotten, what does not open for another reason may not.
    """

    FREE = 0
    USED = 1
    DESTROYED = 2


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as read; `wrapped` is empty unless the slot is used."""

    state: SlotState | None
    wrapped: bytes = field(repr=False)


def require_key(key: bytes) -> None:
    """Raises `ValueError` unless `key` has the length of a key. Its bytes do not show in the message."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")


def encode_place(place: Place) -> bytes:
    """The associated data of a sealed value: equal for equal places only.

    Returns:
        One byte `SEAL_FORMAT`, then tenant, subject, record and kind, each as a 4-byte big-endian length and UTF-8.
    """
    return bytes((SEAL_FORMAT,)) + _prefixed(place.tenant_id, place.subject_id, place.record_id, place.kind)


def link_tag(lookup_key: bytes, tenant_id: str, user_id: str) -> bytes:
    """The only form in which a user id is kept: it can be compared, and not turned back without the lookup key.

    Returns:
        HMAC-SHA-256 over the length-prefixed tenant and user ids, 32 bytes.

    Source: RFC 2104.
    """
    return hmac.digest(lookup_key, _LINK_DOMAIN + _prefixed(tenant_id, user_id), "sha256")


def pack_slot(wrapped: bytes) -> bytes:
    """A used slot that holds `wrapped`.

    Returns:
        256 bytes: state, 1-byte length, the wrapped key, zeros.

    Raises:
        ValueError: `wrapped` is empty or does not fit.
    """
    if not 0 < len(wrapped) <= SLOT_BYTES - 2:
        raise ValueError(f"{len(wrapped)} bytes do not fit a slot")
    return (bytes((SlotState.USED, len(wrapped))) + wrapped).ljust(SLOT_BYTES, b"\0")


def parse_slot(image: bytes) -> Slot:
    """What a slot's 256 bytes say; never raises. The state is `None` for bytes that no version writes."""
    if len(image) != SLOT_BYTES or image[0] not in tuple(SlotState):
        return Slot(None, b"")
    state = SlotState(image[0])
    return Slot(state, image[2 : 2 + image[1]] if state is SlotState.USED else b"")


def _prefixed(*texts: str) -> bytes:
    # surrogatepass: a text that is not valid Unicode is still a distinct text, and must not fail here.
    parts: list[bytes] = []
    for text in texts:
        raw = text.encode("utf-8", "surrogatepass")
        parts += (_LENGTH.pack(len(raw)), raw)
    return b"".join(parts)
