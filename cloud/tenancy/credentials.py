"""Credentials at the door: which kind a text is, and who calls with it. Nothing is remembered from one call to another.

| text | is |
|---|---|
| `lc_<id>_<secret>`, with or without `Bearer ` | an API key, looked up on every call |
| anything else, where the installation accepts an issuer's tokens | a token |
| anything else | no credential of this service |
"""

from __future__ import annotations

from cloud.kernel.clock import Clock
from cloud.kernel.context import current_context
from cloud.kernel.errors import AuthenticationError, InvalidFilterError, KeyDestroyedError, SealBrokenError
from cloud.kernel.scope import Principal, PrincipalKind
from cloud.keys.ports import Keyring
from cloud.tenancy.bound_keys import ranges_of, user_of
from cloud.tenancy.key_use import KeyUse
from cloud.tenancy.model import ApiKeyRecord, Identity, address_refusal, is_like_api_key, split_api_key
from cloud.tenancy.ports import ApiKeyLookup
from cloud.tenancy.tokens import Tokens


class Credentials:
    """Establishes who calls with a credential.

    Args:
        keys: Looks API keys up.
        keyring: Opens what a key says about the person it is bound to.
        clock: The present, UTC.
        tokens: Checks tokens; `None` where the installation accepts none.
        use: Notes that a key was used.
    """

    def __init__(
        self, keys: ApiKeyLookup, keyring: Keyring, clock: Clock, *, tokens: Tokens | None, use: KeyUse | None
    ) -> None:
        self._keys = keys
        self._keyring = keyring
        self._clock = clock
        self._tokens = tokens
        self._use = use

    def authenticate(self, credential: object) -> Identity:
        """Who calls with `credential`, and for which tenant.

        Raises:
            AuthenticationError: It opens nothing; the reason says why.
        """
        parts = split_api_key(credential) if isinstance(credential, str) else None
        if parts is not None:
            return self._of_key(*parts)
        if isinstance(credential, str) and self._tokens is not None and not is_like_api_key(credential):
            return self._tokens.authenticate(credential.removeprefix("Bearer ").strip())
        raise AuthenticationError("malformed_credential", "the credential is none of this service")

    def _of_key(self, key_id: str, secret: str) -> Identity:
        record = self._keys.find(key_id)
        if record is None:
            raise _refusal("invalid_key", None)
        refusal = record.refusal(secret, self._clock())
        if refusal is not None:
            raise _refusal(refusal, record)
        try:
            user_id, ranges = user_of(self._keyring, record), ranges_of(self._keyring, record)
        except (KeyDestroyedError, SealBrokenError, InvalidFilterError) as exc:
            # The person was erased: a key without its person must not become a key for everybody.
            raise _refusal("person_erased", record) from exc
        ambient = current_context()
        refusal = address_refusal(ranges, ambient.client_address if ambient else None)
        if refusal is not None:
            raise _refusal(refusal, record)
        if self._use is not None:
            self._use.note(record.key_id)
        return Identity(
            record.tenant_id, Principal(PrincipalKind.API_KEY, record.roles, user_id=user_id, name=record.key_id)
        )


def _refusal(reason: str, record: ApiKeyRecord | None) -> AuthenticationError:
    # The same words for all: the reason is for the log, and for who holds the secret.
    return AuthenticationError(
        reason, "this API key does not open anything", key_id=record.key_id if record is not None else None
    )
