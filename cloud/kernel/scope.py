"""The scope of a call: which tenant, and who is acting. Built by tenancy alone, demanded by every query."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cloud.kernel.errors import TenantIsolationError
from cloud.kernel.ids import is_tenant_id


class Role(StrEnum):
    """What a principal may do; see `cloud.kernel.access` for the table."""

    SERVICE = "service"
    MEMBER = "member"
    TENANT_ADMIN = "tenant_admin"
    AUDITOR = "auditor"
    OPERATOR = "operator"


class PrincipalKind(StrEnum):
    """How the principal was established."""

    SUBJECT = "subject"
    API_KEY = "api_key"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    SERVICE = "service"
    LOCAL_OPERATOR = "local-operator"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True, repr=False)
class Principal:
    """The authenticated caller.

    Attributes:
        kind: How it was established.
        roles: What it may do.
        user_id: The person, if the caller acts as one. Never written anywhere in the clear.
        name: Id fit for the audit log where the kind has one: a key id, `local-operator:<uid>`, a component's name,
            the subject id of a token's client.
    """

    kind: PrincipalKind
    roles: frozenset[Role]
    user_id: str | None = None
    name: str | None = None

    def __repr__(self) -> str:
        return f"Principal(kind={self.kind.value!r}, roles={sorted(self.roles)!r})"


_GRANT: Final = object()


class TenantScope:
    """Proof that tenancy admitted this principal to this tenant; immutable.

    Attributes:
        tenant_id: The tenant.
        principal: Who is acting.
        request_id: Correlates the audit events of one request.
        trace_id: Trace that the call belongs to, 32 hex digits, if any.
    """

    __slots__ = ("principal", "request_id", "tenant_id", "trace_id")

    tenant_id: str
    principal: Principal
    request_id: str
    trace_id: str | None

    def __init__(
        self, grant: object, *, tenant_id: str, principal: Principal, request_id: str, trace_id: str | None
    ) -> None:
        if grant is not _GRANT or not is_tenant_id(tenant_id):
            raise TenantIsolationError("malformed")
        for name, value in (
            ("tenant_id", tenant_id),
            ("principal", principal),
            ("request_id", request_id),
            ("trace_id", trace_id),
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a tenant scope is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a tenant scope is immutable")

    def __repr__(self) -> str:
        return f"TenantScope(tenant_id={self.tenant_id!r}, principal={self.principal!r})"


def grant_scope(*, tenant_id: str, principal: Principal, request_id: str, trace_id: str | None = None) -> TenantScope:
    """Build a scope. Only `cloud.tenancy` calls this; a test enumerates the callers.

    Raises:
        TenantIsolationError: `tenant_id` cannot name a tenant.
    """
    return TenantScope(_GRANT, tenant_id=tenant_id, principal=principal, request_id=request_id, trace_id=trace_id)


class TenantPredicate:
    """A tenant filter that was compiled against a scope: the key that opens both planes; immutable.

    Attributes:
        scope: The scope it was compiled for.
        tenant_id: The one tenant whose rows a query may touch.
    """

    __slots__ = ("scope", "tenant_id")

    scope: TenantScope
    tenant_id: str

    def __init__(self, scope: TenantScope, tenant_filter: object) -> None:
        """Compile `tenant_filter`, as `TenantProvider.get_tenant_filter` returned it.

        Raises:
            TenantIsolationError: The filter is empty, malformed, lacks the scope's tenant, or names another.
        """
        if not isinstance(scope, TenantScope):
            raise TenantIsolationError("missing_scope")
        object.__setattr__(self, "scope", scope)
        object.__setattr__(self, "tenant_id", _compiled_tenant(scope, tenant_filter))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a tenant predicate is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a tenant predicate is immutable")


def _compiled_tenant(scope: TenantScope, tenant_filter: object) -> str:
    if not isinstance(tenant_filter, dict) or not tenant_filter:
        raise TenantIsolationError("empty" if not tenant_filter else "malformed")
    if "tenant_id" not in tenant_filter:
        raise TenantIsolationError("missing_tenant")
    operand = tenant_filter["tenant_id"]
    # Only equality with one tenant is understood: whatever else a filter says, it might say more than this tenant.
    if len(tenant_filter) != 1 or not isinstance(operand, dict) or set(operand) != {"$eq"}:
        raise TenantIsolationError("malformed")
    if operand["$eq"] != scope.tenant_id:
        raise TenantIsolationError("foreign_tenant" if operand["$eq"] else "missing_tenant")
    return scope.tenant_id
