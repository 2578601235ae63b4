"""Tokens of an issuer at the door."""

from __future__ import annotations

from cloud.kernel.clock import Clock
from cloud.kernel.errors import AuthenticationError, KeyDestroyedError, UnknownTenantError
from cloud.kernel.scope import Principal, PrincipalKind
from cloud.keys.ports import Keyring
from cloud.tenancy.access_review import TokenAccess
from cloud.tenancy.jwt import Token, TokenPolicy, read_header, verify
from cloud.tenancy.model import Identity
from cloud.tenancy.ports import TokenKeys, TokenRegister, TokenStanding


class Tokens:
    """Establishes who calls with a token.

    Args:
        policy: Which tokens open anything.
        keys: The issuer's public keys.
        register: Tells whether a token was revoked and whether its tenant is there, on every call.
        keyring: Turns the holder into a subject id.
        clock: The present, UTC.
    """

    def __init__(
        self, policy: TokenPolicy, keys: TokenKeys, register: TokenRegister, keyring: Keyring, clock: Clock
    ) -> None:
        self._policy = policy
        self._keys = keys
        self._register = register
        self._keyring = keyring
        self._clock = clock

    def access(self) -> TokenAccess:
        """What tokens can bring, for access reviews."""
        return TokenAccess(self._policy.issuer, tuple(sorted(set(self._policy.roles.values()))))

    def warm(self) -> None:
        """Begin to get the issuer's keys, so that the first call need not wait."""
        self._keys.warm()

    def examine(self, text: str) -> Token:
        """What a token says, if its signature and its claims hold now; nothing is looked up about it.

        Raises:
            AuthenticationError: It opens nothing; the reason says why.
            TokenKeysUnavailableError: The issuer's keys cannot be had now.
        """
        header = read_header(text, self._policy)
        key = self._keys.find(header.key_id, header.algorithm)
        if key is None:
            raise AuthenticationError("token_unknown_key", "this token does not open anything (token_unknown_key)")
        return verify(text, key, self._policy, self._clock())

    def authenticate(self, text: str) -> Identity:
        """Who calls with this token, and for which tenant; one look-up.

        Raises:
            AuthenticationError: It opens nothing; the reason says why.
            TokenKeysUnavailableError: The issuer's keys cannot be had now.
        """
        token = self.examine(text)
        self.require_good(token)
        return Identity(token.tenant_id, self._principal(token))

    def require_good(self, token: Token) -> None:
        """Do nothing if the token was not revoked and its tenant is there; one look-up.

        Raises:
            AuthenticationError: It was revoked, or there is no such tenant.
        """
        match self._register.standing(token.tenant_id, token.tag):
            case TokenStanding.REVOKED:
                raise AuthenticationError("token_revoked", "this token does not open anything (token_revoked)")
            case TokenStanding.UNKNOWN_TENANT:
                raise UnknownTenantError
            case TokenStanding.GOOD:
                return

    def _principal(self, token: Token) -> Principal:
        if token.user_id is not None:
            return Principal(PrincipalKind.TOKEN, token.roles, user_id=token.user_id)
        # A client without a person still has to have a name in the log, and its `sub` may be anything.
        try:
            holder = self._keyring.resolve_subject(token.tenant_id, token.subject, create=True)
        except KeyDestroyedError as exc:
            raise UnknownTenantError from exc
        return Principal(PrincipalKind.TOKEN, token.roles, name=holder.subject_id if holder else None)
