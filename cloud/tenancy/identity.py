"""Establishes who is calling from the ambient request context and the context passed along. Fails closed.

| source | establishes |
|---|---|
| ambient `request_context(tenant_id=…, user_id=…, roles=…)` | what the host application authenticated |
| the same without a tenant | who is calling; one of the rows below names the tenant |
| `authorization` in either | an API key or an issuer's token: its tenant, roles and person, looked up on every call |
| `tenant_id` in the passed context | the same in-process trust as the ambient one, with the role `service` |
| `x-tenant-id` in the passed context | nothing by itself; a tenant only with `trusted_gateway=True` |

Whatever names a tenant must name the same one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from cloud.kernel.clock import Clock
from cloud.kernel.context import RequestContext, current_context
from cloud.kernel.errors import AuthenticationError, TenantIsolationError
from cloud.kernel.scope import Principal, PrincipalKind, Role
from cloud.keys.ports import Keyring
from cloud.tenancy.credentials import Credentials
from cloud.tenancy.key_use import KeyUse
from cloud.tenancy.model import Identity
from cloud.tenancy.ports import ApiKeyLookup
from cloud.tenancy.refusals import Refusals
from cloud.tenancy.tokens import Tokens

LOCAL_OPERATOR: Final = "local-operator"


def local_operator() -> Principal:
    """Whoever runs this process: it holds the root key, so it administers; audited under its account's number."""
    return Principal(
        PrincipalKind.LOCAL_OPERATOR,
        frozenset({Role.OPERATOR, Role.TENANT_ADMIN}),
        name=f"{LOCAL_OPERATOR}:{os.geteuid()}",
    )


class IdentityResolver:
    """Resolves the caller of the present call.

    Args:
        keys: Looks API keys up.
        keyring: Opens the user id that a key is bound to.
        clock: The present, UTC.
        trusted_gateway: Whether `x-tenant-id` comes from a gateway that authenticated it.
        default_tenant: Tenant of calls that name none, if the deployment names one explicitly.
        tokens: Checks an issuer's tokens; none are accepted when left out.
        use: Notes that an API key was used.
        refusals: Counts who is nobody; each is an event of its own when left out.
    """

    def __init__(
        self,
        keys: ApiKeyLookup,
        keyring: Keyring,
        clock: Clock,
        *,
        trusted_gateway: bool = False,
        default_tenant: str | None = None,
        tokens: Tokens | None = None,
        use: KeyUse | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._keys = keys
        self._credentials = Credentials(keys, keyring, clock, tokens=tokens, use=use)
        self.refusals = refusals
        self._trusted_gateway = trusted_gateway
        self._default_tenant = default_tenant

    def resolve(self, context: Mapping[str, object]) -> Identity | None:
        """Who calls, and for which tenant; `None` when nothing names anybody.

        Raises:
            AuthenticationError: A credential does not hold, or only an untrusted header names a tenant.
            TenantIsolationError: Two sources name different tenants.
        """
        ambient = current_context()
        found = [
            identity
            for identity in (
                self._of_authorization(ambient.authorization if ambient else None),
                self._of_authorization(context.get("authorization")),
                self._of_ambient(ambient),
                self._of_context(context),
            )
            if identity is not None
        ]
        named = {identity.tenant_id for identity in found if identity.tenant_id is not None}
        header = _text(context, "x-tenant-id")
        if header is not None and not named and not self._trusted_gateway:
            raise AuthenticationError("untrusted_header", "the header x-tenant-id authenticates nobody")
        if header is not None:
            named.add(header)
        if not named and self._default_tenant is not None:
            named.add(self._default_tenant)
        if not found and not named:
            return None
        if len(named) > 1:
            raise TenantIsolationError("conflict")
        # The strongest source comes first: a credential says more than what a caller claims about itself.
        principal = found[0].principal if found else _service_or_member(context)
        return Identity(next(iter(named), None), principal)

    def _of_authorization(self, credential: object) -> Identity | None:
        return None if credential is None else self._credentials.authenticate(credential)

    @staticmethod
    def _of_ambient(ambient: RequestContext | None) -> Identity | None:
        if ambient is None or not (ambient.tenant_id or ambient.user_id or ambient.roles or ambient.operator):
            return None
        try:
            roles = frozenset(Role(role) for role in ambient.roles)
        except ValueError as exc:
            raise AuthenticationError("unknown_role", "request_context names a role that does not exist") from exc
        if ambient.operator is not None:
            return Identity(ambient.tenant_id, Principal(PrincipalKind.LOCAL_OPERATOR, roles, name=ambient.operator))
        kind = PrincipalKind.SUBJECT if ambient.user_id is not None else PrincipalKind.SERVICE
        return Identity(ambient.tenant_id, Principal(kind, roles, user_id=ambient.user_id))

    @staticmethod
    def _of_context(context: Mapping[str, object]) -> Identity | None:
        tenant_id = _text(context, "tenant_id")
        return None if tenant_id is None else Identity(tenant_id, _service_or_member(context))


def _service_or_member(context: Mapping[str, object]) -> Principal:
    # A context that names its user gets that user's rights and no more.
    user_id = _text(context, "user_id")
    if user_id is None:
        return Principal(PrincipalKind.SERVICE, frozenset({Role.SERVICE}))
    return Principal(PrincipalKind.SUBJECT, frozenset({Role.MEMBER}), user_id=user_id)


def _text(context: Mapping[str, object], name: str) -> str | None:
    value = context.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise AuthenticationError("malformed_context", f"'{name}' in the context must be a non-empty text")
    return value
