"""What people write about requests and holds is sealed; the user id that a request is about is, too.

The user id of somebody who is known is sealed under that person's own key, so it goes with the key. Of somebody of whom
nothing is kept there is no key: it is sealed under the tenant's until the request ends, and dropped then.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from cloud.gdpr.model import Erasure
from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, SealBrokenError
from cloud.keys.model import Place, SubjectKey
from cloud.memory.config import PixeltableConfig

TEXT_CHARACTERS: Final = 1_000
_USER: Final = "request_user"


def sealed_text(config: PixeltableConfig, tenant_id: str, record_id: str, kind: str, text: str) -> bytes:
    """A text of a person, sealed under the tenant's key for one column of one row.

    Raises:
        ConfigurationError: It has more than 1,000 characters, or the keyring lacks the tenant's key.
    """
    if len(text) > TEXT_CHARACTERS:
        raise ConfigurationError(f"the {kind.replace('_', ' ')} has more than {TEXT_CHARACTERS} characters")
    try:
        key = config.keyring.tenant_key(tenant_id).key
    except KeyDestroyedError as keyless:
        raise ConfigurationError(
            "the keyring lacks this tenant's key; restore the keyring from its backup"
        ) from keyless
    return config.sealer.seal(key, text.encode("utf-8", "surrogatepass"), place=Place(tenant_id, "", record_id, kind))


def opened_text(
    config: PixeltableConfig, tenant_id: str, record_id: str, kind: str, sealed: bytes | None
) -> str | None:
    """What was sealed there; `None` if nothing was, or the tenant's key is gone.

    Raises:
        SealBrokenError: It was altered, or copied from elsewhere.
    """
    if sealed is None:
        return None
    try:
        keys = config.keyring.tenant_key(tenant_id).versions
    except KeyDestroyedError:
        return None
    for key in keys:
        with suppress(SealBrokenError):
            opened = config.sealer.unseal(key, sealed, place=Place(tenant_id, "", record_id, kind))
            return opened.decode("utf-8", "surrogatepass")
    raise SealBrokenError("a text of a request opens under none of the tenant's keys")


def sealed_person(
    config: PixeltableConfig, tenant_id: str, erasure_id: str, user_id: str, person: SubjectKey | None
) -> bytes:
    """The user id, sealed as the module says."""
    if person is None:
        return sealed_text(config, tenant_id, erasure_id, _USER, user_id)
    place = Place(tenant_id, person.subject_id, erasure_id, _USER)
    return config.sealer.seal(person.key, user_id.encode(), place=place)


def stranger_of(config: PixeltableConfig, tenant_id: str, erasure_id: str, sealed: bytes | None) -> str | None:
    """The user id of a request of whom nothing was kept."""
    return opened_text(config, tenant_id, erasure_id, _USER, sealed)


def person_of(config: PixeltableConfig, erasure: Erasure, sealed: bytes | None) -> str | None:
    """The user id of a request; `None` if it was not kept, or its key is destroyed."""
    if sealed is None:
        return None
    subject_id = erasure.subject_id
    person = config.keyring.subject_key(erasure.tenant_id, subject_id) if subject_id else None
    if person is not None:
        place = Place(erasure.tenant_id, person.subject_id, erasure.erasure_id, _USER)
        with suppress(SealBrokenError):
            return config.sealer.unseal(person.key, sealed, place=place).decode()
    # It was received before anything of the person was kept.
    with suppress(SealBrokenError):
        return stranger_of(config, erasure.tenant_id, erasure.erasure_id, sealed)
    return None
