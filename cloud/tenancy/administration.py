"""The door for administrators: actions on a tenant as a whole, on its people, and on the installation.

Without an ambient caller the local operator acts: whoever runs this process holds the root key.
"""

from __future__ import annotations

from cloud.audit.model import AuditDraft, Category
from cloud.audit.ports import TransactionalAuditLogger
from cloud.kernel import telemetry
from cloud.kernel.access import Action, Allowed, decide
from cloud.kernel.context import current_context
from cloud.kernel.errors import (
    AuthenticationError,
    LuminescentError,
    PermissionDeniedError,
    TenantIsolationError,
    UnknownTenantError,
)
from cloud.kernel.ids import SYSTEM_LOG, is_tenant_id
from cloud.kernel.scope import PrincipalKind, TenantScope
from cloud.tenancy.admission import Admissions, Admitted
from cloud.tenancy.identity import IdentityResolver, local_operator
from cloud.tenancy.model import Identity, TenantState
from cloud.tenancy.ports import TenantDirectory
from src.extensions import TenantProvider

_INSTALLATION = "operator"
"""Tenant id in the scope of a named operator without a tenant: nothing is read or linked under it."""


class Administration(Admissions):
    """Decides who may administer what.

    Args:
        tenant_provider: Names tenants and their filters; may be foreign.
        identities: Establishes the principal where the tenant provider cannot.
        audit: Records refusals and begins events.
        tenants: Tells which tenants there are, and whether they are served.
    """

    def __init__(
        self,
        tenant_provider: TenantProvider,
        identities: IdentityResolver,
        audit: TransactionalAuditLogger,
        tenants: TenantDirectory,
    ) -> None:
        super().__init__(tenant_provider, identities, audit)
        self._directory = tenants

    def admit_to(self, tenant_id: str, action: Action, *, user_id: str | None = None) -> TenantScope:
        """Admit the present caller, or without any the local operator, to an administrative action on a tenant.

        Raises:
            AuthenticationError: It is not established who is calling, or there is no such tenant.
            PermissionDeniedError: The caller may not do this, belongs to another tenant, or to one that is suspended.
        """
        return self.administer(tenant_id, action, user_id=user_id).scope

    def administer(self, tenant_id: str, action: Action, *, user_id: str | None = None) -> Admitted:
        """As `admit_to`, with the predicate and the event begun."""
        telemetry.begin(action.value)
        identity = self._administrator(tenant_id, action)
        if identity.tenant_id != tenant_id:
            denied = PermissionDeniedError(action=action.value, reason="other_tenant")
            self._refuse(self._scope(identity), action, denied)
            raise denied
        admitted = self._enter(identity, action, user_id)
        tenant = self._directory.get(tenant_id)
        error: LuminescentError
        if tenant is None:
            error = UnknownTenantError()
        elif tenant.state is not TenantState.ACTIVE and identity.principal.kind is not PrincipalKind.LOCAL_OPERATOR:
            # A suspended tenant is not served; whoever runs the service still owes its people erasure and access.
            error = PermissionDeniedError(action=action.value, reason=f"tenant_{tenant.state.value}")
        else:
            return admitted
        self._refuse(admitted.scope, action, error)
        raise error

    def tenant_of_report(self, action: Action, named: object) -> str | None:
        """The tenant that a report of foreign code is about: the caller's, or without any caller the one it names.

        A refusal is recorded, as at the door.

        Raises:
            AuthenticationError: A credential does not hold, or the report names its tenant wrongly.
            TenantIsolationError: The report names another tenant than the caller's.
        """
        ambient = current_context()
        if ambient is None or not ambient.names_caller:
            return named if isinstance(named, str) else None
        try:
            identity = self._identities.resolve({"tenant_id": named})
        except (AuthenticationError, TenantIsolationError) as error:
            self._refuse(None, action, error)
            raise
        return identity.tenant_id if identity else None

    def operate(self, action: Action) -> AuditDraft:
        """Admit an operator to an action on the whole installation; returns its event, begun.

        Raises:
            AuthenticationError: A credential does not hold.
            PermissionDeniedError: The caller is no operator.
            TenantIsolationError: Two sources name different tenants.
        """
        telemetry.begin(action.value)
        identity: Identity | None = Identity(None, local_operator())
        try:
            if current_context() is not None:
                identity = self._identities.resolve({})
            if identity is None or not isinstance(decide(identity.principal, action), Allowed):
                raise PermissionDeniedError(action=action.value, reason="role_missing")
        except (AuthenticationError, PermissionDeniedError, TenantIsolationError) as error:
            self._refuse(self._scope(identity) if identity else None, action, error, log_id=_log_of(identity))
            raise
        return self._audit.draft(self._scope(identity), action, category=Category.ADMINISTRATION)

    def _administrator(self, tenant_id: str, action: Action) -> Identity:
        if current_context() is None:
            return Identity(tenant_id, local_operator())
        try:
            return self._identity({})
        except (AuthenticationError, TenantIsolationError) as error:
            self._refuse(None, action, error)
            raise

    def _scope(self, identity: Identity) -> TenantScope | None:
        """The caller's own scope, in which its event names it; `None` for one whom no event can name."""
        if identity.tenant_id is not None and is_tenant_id(identity.tenant_id):
            return self._granted(identity.tenant_id, identity.principal)
        return self._granted(_INSTALLATION, identity.principal) if identity.principal.name is not None else None


def _log_of(identity: Identity | None) -> str:
    named = identity.tenant_id if identity else None
    return named if named is not None and is_tenant_id(named) else SYSTEM_LOG
