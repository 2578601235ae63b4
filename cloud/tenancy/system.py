"""Scopes of the service's own background work: one tenant each, never more than the work needs."""

from __future__ import annotations

from cloud.kernel.context import current_trace_id
from cloud.kernel.ids import new_request_id
from cloud.kernel.scope import Principal, PrincipalKind, TenantPredicate, grant_scope


def system_predicate(tenant_id: str, component: str) -> TenantPredicate:
    """The predicate under which `component` looks at one tenant's rows.

    Raises:
        TenantIsolationError: `tenant_id` cannot name a tenant.
    """
    scope = grant_scope(
        tenant_id=tenant_id,
        principal=Principal(PrincipalKind.SYSTEM, frozenset(), name=component),
        request_id=new_request_id(),
        trace_id=current_trace_id(),
    )
    return TenantPredicate(scope, {"tenant_id": {"$eq": tenant_id}})
