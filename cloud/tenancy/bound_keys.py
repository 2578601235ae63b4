"""What an API key says about the person it is bound to: sealed under the person's key, so it ends with the person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloud.kernel.addresses import Range, parse_ranges
from cloud.kernel.errors import KeyDestroyedError, SealBrokenError
from cloud.keys.model import Place, SubjectKey
from cloud.keys.ports import Keyring
from cloud.keys.sealing import seal, unseal
from cloud.tenancy.model import ApiKeyRecord

_USER: Final = "api_key_user"
_RANGES: Final = "api_key_ranges"


@dataclass(frozen=True, slots=True)
class Binding:
    """The columns of a key that depend on whether it is somebody's.

    Attributes:
        subject_id: The person, or `None`.
        user_sealed: The user id, sealed.
        ip_ranges: The ranges of a key that is nobody's.
        ranges_sealed: The ranges of a key that is somebody's: where a person works is about the person.
    """

    subject_id: str | None
    user_sealed: bytes | None
    ip_ranges: tuple[Range, ...]
    ranges_sealed: bytes | None


def bind(
    keyring: Keyring, tenant_id: str, key_id: str, *, user_id: str | None, ip_ranges: tuple[Range, ...]
) -> Binding:
    """The binding of a new key; links the person if it is not linked yet."""
    if user_id is None:
        return Binding(None, None, ip_ranges, None)
    person = keyring.resolve_subject(tenant_id, user_id, create=True)
    assert person is not None
    user = seal(person.key, user_id.encode("utf-8"), place=Place(tenant_id, person.subject_id, key_id, _USER))
    ranges = seal(person.key, _text(ip_ranges), place=Place(tenant_id, person.subject_id, key_id, _RANGES))
    return Binding(person.subject_id, user, (), ranges if ip_ranges else None)


def user_of(keyring: Keyring, record: ApiKeyRecord) -> str | None:
    """The person that the key acts as, or `None` for a key that is nobody's.

    Raises:
        KeyDestroyedError: The person was erased.
        SealBrokenError: The value was altered, or copied from another key.
    """
    # One of the two without the other is no key for everybody: it was bound, and what it was bound to is gone.
    if record.subject_id is None and record.user_sealed is None:
        return None
    return _opened(keyring, record, record.user_sealed, _USER).decode()


def ranges_of(keyring: Keyring, record: ApiKeyRecord) -> tuple[Range, ...]:
    """Where the key may be used from; empty for anywhere.

    Raises:
        KeyDestroyedError: The person was erased.
        SealBrokenError: The value was altered, or copied from another key.
    """
    if record.ranges_sealed is None:
        return record.ip_ranges
    return parse_ranges(_opened(keyring, record, record.ranges_sealed, _RANGES).decode().split())


def ranges_told_to(person: SubjectKey, key_id: str, ranges_sealed: bytes | None) -> list[str]:
    """The ranges of a person's own key as that person may read them (GDPR Art. 15).

    Raises:
        SealBrokenError: The value was altered, or copied from another key.
    """
    if ranges_sealed is None:
        return []
    place = Place(person.tenant_id, person.subject_id, key_id, _RANGES)
    return unseal(person.key, ranges_sealed, place=place).decode().split()


def _opened(keyring: Keyring, record: ApiKeyRecord, sealed: bytes | None, kind: str) -> bytes:
    subject_id = record.subject_id
    person = None if subject_id is None else keyring.subject_key(record.tenant_id, subject_id)
    if person is None or subject_id is None:
        raise KeyDestroyedError
    if sealed is None:
        raise SealBrokenError("a key that is bound to a person does not name the person")
    return unseal(person.key, sealed, place=Place(record.tenant_id, subject_id, record.key_id, kind))


def _text(ranges: Sequence[Range]) -> bytes:
    return " ".join(str(one) for one in ranges).encode("ascii")
