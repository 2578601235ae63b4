"""Who is calling, and what of the data is theirs."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

TENANT_PROVIDER_VERSION = "1.0.0"
"""Semantic version of `TenantProvider`."""


@runtime_checkable
class TenantProvider(Protocol):
    """Resolves the tenant of a request and says which rows are that tenant's.

    Without one, the deployment has a single tenant. With one, whoever queries must treat `None` and every exception
    as "nobody": no tenant, no query.
    """

    def get_tenant_id(self, request_context: dict[str, Any]) -> str | None:
        """The tenant on whose behalf the request acts.

        Args:
            request_context: What is known of the request, such as `x-tenant-id`, `authorization`, `user_id`.

        Returns:
            The tenant's id, or `None` if it is not established; never a default.
        """
        ...

    def get_tenant_filter(self, tenant_id: str) -> dict[str, Any]:
        """The condition that every query on the tenant's behalf carries.

        Args:
            tenant_id: The tenant's id.

        Returns:
            A filter such as `{"tenant_id": {"$eq": "acme"}}`; never an empty one, which would mean everybody.
        """
        ...

    def validate_tenant_access(self, tenant_id: str, user_id: str, resource: str) -> bool:
        """Whether the user may use the resource within the tenant.

        Args:
            tenant_id: The tenant's id.
            user_id: The user who asks.
            resource: What is asked for, such as `memory.retrieve`.

        Returns:
            `True` only if that is established.
        """
        ...
