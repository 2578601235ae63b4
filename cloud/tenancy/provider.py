"""`CloudTenantProvider`: the published protocol, and who is calling."""

from __future__ import annotations

from collections.abc import Mapping

from cloud.kernel.access import Action, Allowed, decide
from cloud.kernel.errors import AuthenticationError, TenantIsolationError
from cloud.kernel.ids import is_tenant_id
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.model import Identity

_RESOURCES = {
    "memories": Action.MEMORY_RETRIEVE,
    "memories:write": Action.MEMORY_STORE,
    "erasure": Action.ERASURE,
    "export": Action.ACCESS_REQUEST,
    "usage": Action.USAGE_READ,
    "audit": Action.AUDIT_READ,
}


class CloudTenantProvider:
    """`TenantProvider` that fails closed: nobody named is nobody admitted, and a filter names exactly one tenant."""

    def __init__(self, identities: IdentityResolver) -> None:
        self._identities = identities

    def get_tenant_id(self, request_context: Mapping[str, object]) -> str | None:
        """The tenant of the present call, or `None` when nothing names one.

        Raises:
            AuthenticationError: A credential does not hold.
            TenantIsolationError: Two sources name different tenants.
        """
        identity = self._identities.resolve(request_context)
        return identity.tenant_id if identity else None

    def get_tenant_filter(self, tenant_id: str) -> dict[str, object]:
        """The filter that keeps a query to one tenant: `{"tenant_id": {"$eq": tenant_id}}`.

        Raises:
            TenantIsolationError: `tenant_id` cannot name a tenant; there is no filter that means everything.
        """
        if not is_tenant_id(tenant_id):
            raise TenantIsolationError("malformed" if tenant_id else "empty")
        return {"tenant_id": {"$eq": tenant_id}}

    def validate_tenant_access(self, tenant_id: str, user_id: str, resource: str) -> bool:
        """Whether the present caller may use `resource` of `tenant_id` for `user_id`.

        Args:
            tenant_id: The tenant.
            user_id: The person meant.
            resource: An action such as `memory.retrieve`, or `memories`, `memories:write`, `erasure`, `export`,
                `usage`, `audit`; anything else is denied.
        """
        action = _RESOURCES.get(resource)
        if action is None and resource in set(Action):
            action = Action(resource)
        try:
            identity = self._identities.resolve({})
        except (AuthenticationError, TenantIsolationError):
            return False
        if action is None or identity is None or identity.tenant_id != tenant_id:
            return False
        return isinstance(decide(identity.principal, action, user_id=user_id), Allowed)

    def identify(self, request_context: Mapping[str, object]) -> Identity:
        """Who calls, and for which tenant.

        Raises:
            AuthenticationError: Nobody is named, or a credential does not hold.
            TenantIsolationError: Two sources name different tenants.
        """
        identity = self._identities.resolve(request_context)
        if identity is None or identity.tenant_id is None:
            raise AuthenticationError("no_scope", "nobody is calling: use request_context(tenant_id=…, …)")
        return identity
