"""The door: every operation passes it once, and only what passed it holds a scope and a tenant predicate.

A refusal is recorded before it is raised: of a caller that is known in its tenant's log, one event each; of a stranger
in the system log, where many of one minute and source become one event (`cloud.tenancy.refusals`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloud.audit.model import AuditDraft, Category, Outcome, reason_of
from cloud.audit.ports import TransactionalAuditLogger
from cloud.kernel import telemetry
from cloud.kernel.access import Action, Allowed, Refused, decide
from cloud.kernel.context import current_context, current_trace_id
from cloud.kernel.errors import (
    AuthenticationError,
    LuminescentError,
    PermissionDeniedError,
    TenantIsolationError,
    UnknownTenantError,
)
from cloud.kernel.ids import SYSTEM_LOG, is_tenant_id, new_request_id
from cloud.kernel.scope import Principal, TenantPredicate, TenantScope, grant_scope
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.model import Identity
from cloud.tenancy.ports import Identifying
from src.extensions import TenantProvider

_NOTHING: Final[Mapping[str, object]] = {}


@dataclass(frozen=True, slots=True)
class Admitted:
    """An operation that passed the door.

    Attributes:
        predicate: Opens both planes for one tenant.
        only_own: The principal may touch its own memories alone.
        draft: The operation's audit event, begun.
    """

    predicate: TenantPredicate
    only_own: bool
    draft: AuditDraft

    @property
    def scope(self) -> TenantScope:
        """Who is acting, in which tenant."""
        return self.predicate.scope


class Admissions:
    """Decides who may do what, and hands out scopes.

    Args:
        tenant_provider: Names tenants and their filters; may be foreign.
        identities: Establishes the principal where the tenant provider cannot.
        audit: Records refusals and begins events.
    """

    def __init__(
        self, tenant_provider: TenantProvider, identities: IdentityResolver, audit: TransactionalAuditLogger
    ) -> None:
        self._tenants = tenant_provider
        # Found out once: looking for the members of a protocol takes longer than calling one of them.
        self._identifying = tenant_provider if isinstance(tenant_provider, Identifying) else None
        self._identities = identities
        self._audit = audit

    def admit(self, action: Action, context: object = None, *, user_id: str | None = None) -> Admitted:
        """Admit the present caller to `action`, for the memories of `user_id` if one is named.

        Raises:
            AuthenticationError: It is not established who is calling.
            PermissionDeniedError: The caller may not do this.
            TenantIsolationError: The tenant filter or the scope is not the caller's own.
        """
        telemetry.begin(action.value)
        try:
            identity = self._identity(_NOTHING if context is None else context)
        except (AuthenticationError, TenantIsolationError) as error:
            self._refuse(None, action, error)
            raise
        return self._enter(identity, action, user_id)

    def _identity(self, context: object) -> Identity:
        if not isinstance(context, Mapping):
            raise AuthenticationError("malformed_context", "the context must be a mapping")
        if self._identifying is not None:
            return self._identifying.identify(context)
        tenant_id = self._tenants.get_tenant_id(dict(context))
        identity = self._identities.resolve(context)
        if tenant_id is None or identity is None:
            raise AuthenticationError("no_scope", "nobody is calling: use request_context(tenant_id=…, …)")
        if identity.tenant_id not in (None, tenant_id):
            raise TenantIsolationError("conflict")
        return Identity(tenant_id, identity.principal)

    def _enter(self, identity: Identity, action: Action, user_id: str | None) -> Admitted:
        if not is_tenant_id(identity.tenant_id) or identity.tenant_id is None:
            error = UnknownTenantError()
            self._refuse(None, action, error)
            raise error
        scope = self._granted(identity.tenant_id, identity.principal)
        telemetry.of_tenant(scope.tenant_id)
        match decide(identity.principal, action, user_id=user_id):
            case Refused(reason=reason):
                denied = PermissionDeniedError(action=action.value, reason=reason)
                self._refuse(scope, action, denied)
                raise denied
            case Allowed(only_own=only_own):
                predicate = self._predicate(scope, action)
                return Admitted(predicate, only_own, self._audit.draft(scope, action))

    def _predicate(self, scope: TenantScope, action: Action) -> TenantPredicate:
        try:
            return TenantPredicate(scope, self._tenants.get_tenant_filter(scope.tenant_id))
        except TenantIsolationError as error:
            self._refuse(scope, action, error)
            raise

    @staticmethod
    def _granted(tenant_id: str, principal: Principal) -> TenantScope:
        return grant_scope(
            tenant_id=tenant_id, principal=principal, request_id=_request_id(), trace_id=current_trace_id()
        )

    def _refuse(
        self, scope: TenantScope | None, action: Action, error: LuminescentError, *, log_id: str | None = None
    ) -> None:
        isolation = isinstance(error, TenantIsolationError)
        draft = self._audit.draft(
            scope,
            action,
            category=Category.SECURITY if isolation or isinstance(error, AuthenticationError) else Category.OPERATION,
            details={"severity": "critical"} if isolation else None,
        )
        if scope is None and self._identities.refusals is not None:
            self._identities.refusals.count(draft, error)
            return
        log_id = log_id or (scope.tenant_id if scope else SYSTEM_LOG)
        if log_id != SYSTEM_LOG:
            telemetry.of_tenant(log_id)
        self._audit.record(log_id, draft, Outcome.DENIED, reason=reason_of(error))


def _request_id() -> str:
    ambient = current_context()
    return ambient.request_id if ambient else new_request_id()
