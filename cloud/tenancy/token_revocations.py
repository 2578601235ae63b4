"""Takes tokens of an issuer back before they expire; each revocation commits together with its audit event."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel.access import Action
from cloud.kernel.errors import AuthenticationError, ConfigurationError, UnknownTenantError
from cloud.tenancy.administration import Administration
from cloud.tenancy.ports import RevokedTokens
from cloud.tenancy.tokens import Tokens


class TokenRevocations:
    """Takes tokens back before they expire.

    Args:
        tokens: Reads them; `None` where the installation accepts none.
        revoked: Keeps what was revoked.
        admissions: Lets operators in and begins events.
        audit: Records what changed nothing.
    """

    def __init__(
        self,
        tokens: Tokens | None,
        revoked: RevokedTokens,
        admissions: Administration,
        audit: TransactionalAuditLogger,
    ) -> None:
        self._tokens = tokens
        self._revoked = revoked
        self._admissions = admissions
        self._audit = audit

    def revoke(self, text: str) -> datetime:
        """Revoke one token: it opens nothing in any process from the commit on.

        Args:
            text: The token itself, with or without `Bearer `.

        Returns:
            When it would have expired (UTC).

        Raises:
            ConfigurationError: It opens nothing anyway, or the installation accepts no tokens.
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.TOKEN_REVOKE)
        with recorded_failure(self._audit, draft):
            if self._tokens is None:
                raise ConfigurationError("this installation accepts no tokens; see jwt_issuer")
            try:
                token = self._tokens.examine(text.removeprefix("Bearer ").strip())
            except AuthenticationError as error:
                raise ConfigurationError(f"nothing to revoke: {error}") from error
        draft = replace(draft, details={"expires_at": token.expires_at.isoformat()})
        if not self._revoked.revoke(token.tenant_id, token.tag, expires_at=token.expires_at, audit=draft):
            raise UnknownTenantError
        return token.expires_at
