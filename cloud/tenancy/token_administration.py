"""Administration of an issuer's tokens: what one would open, and taking it back before it expires."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from cloud.audit.model import AuditDraft, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import AuthenticationError, ConfigurationError, UnknownTenantError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import Role
from cloud.tenancy.administration import Administration
from cloud.tenancy.ports import RevokedTokens
from cloud.tenancy.tokens import Tokens


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token opens, without whose it is.

    Attributes:
        tenant_id: The tenant.
        roles: What it may do there, sorted.
        is_personal: Whether it acts as one person.
        expires_at: From when on it opens nothing (UTC).
    """

    tenant_id: str
    roles: tuple[Role, ...]
    is_personal: bool
    expires_at: datetime


class TokenAdministration:
    """Checks and revokes tokens.

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

    @telemetry.operation()
    def check(self, text: str) -> TokenFacts:
        """What a token opens now; for whoever sets an issuer up.

        Args:
            text: The token, with or without `Bearer `.

        Raises:
            AuthenticationError: It opens nothing; the reason says why.
            ConfigurationError: The installation accepts no tokens.
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.TOKEN_CHECK)
        with recorded_failure(self._audit, draft):
            token = self._accepted().examine(_bare(text))
            self._accepted().require_good(token)
        facts = TokenFacts(token.tenant_id, tuple(sorted(token.roles)), token.user_id is not None, token.expires_at)
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED)
        return facts

    @telemetry.operation()
    def revoke(self, text: str) -> datetime:
        """Revoke one token: it opens nothing in any process from the commit on.

        Args:
            text: The token itself, with or without `Bearer `.

        Returns:
            When it would have expired (UTC).

        Raises:
            ConfigurationError: It opens nothing anyway, or the installation accepts no tokens.
            UnknownTenantError: It is for a tenant that is not here, so it opens nothing either.
            PermissionDeniedError: The caller is no operator.
        """
        draft: AuditDraft = self._admissions.operate(Action.TOKEN_REVOKE)
        with recorded_failure(self._audit, draft):
            try:
                token = self._accepted().examine(_bare(text))
            except AuthenticationError as error:
                raise ConfigurationError(f"nothing to revoke: {error}") from error
        draft = replace(draft, details={"expires_at": token.expires_at.isoformat()})
        if not self._revoked.revoke(token.tenant_id, token.tag, expires_at=token.expires_at, audit=draft):
            raise UnknownTenantError
        return token.expires_at

    def _accepted(self) -> Tokens:
        if self._tokens is None:
            raise ConfigurationError("this installation accepts no tokens; see jwt_issuer")
        return self._tokens


def _bare(text: str) -> str:
    return text.removeprefix("Bearer ").strip()
