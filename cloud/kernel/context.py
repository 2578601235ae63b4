"""The ambient request context: what the host application established about the caller of this task or thread.

It travels in a context variable, so concurrent requests cannot see each other's, and a provider object holds none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from opentelemetry import trace

from cloud.kernel.addresses import Address, parse_address
from cloud.kernel.errors import InvalidFilterError
from cloud.kernel.ids import new_request_id

_TOKEN: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What the host application says about the caller; tenancy decides what it is worth.

    Attributes:
        tenant_id: Tenant the caller belongs to.
        user_id: The person calling, or `None` for a service.
        roles: Names of roles (`cloud.kernel.scope.Role`).
        request_id: Correlates every audit event of one request.
        authorization: Credential to authenticate instead, such as `Bearer lc_…` or `Bearer eyJ…`; never logged.
        operator: Identity of a local operator, such as `local-operator:1000`; set by the command line only.
        client_address: Where the caller's connection comes from; compared with an API key's ranges, never logged.
    """

    tenant_id: str | None
    user_id: str | None
    roles: frozenset[str]
    request_id: str
    authorization: str | None = None
    operator: str | None = None
    client_address: Address | None = None

    @property
    def names_caller(self) -> bool:
        """Whether it says anything of who is calling, which still has to hold; the id of a request does not."""
        return self.authorization is not None or bool(self.tenant_id or self.user_id or self.roles or self.operator)

    def __repr__(self) -> str:
        return f"RequestContext(request_id={self.request_id!r})"


_current: ContextVar[RequestContext | None] = ContextVar("luminescent_request_context", default=None)


@contextmanager
def request_context(
    *,
    tenant_id: str | None = None,
    user_id: str | None = None,
    roles: Iterable[str] = (),
    request_id: str | None = None,
    authorization: str | None = None,
    operator: str | None = None,
    client_address: str | None = None,
) -> Iterator[RequestContext]:
    """Everything inside runs as this caller, in this task or thread alone.

    Args:
        tenant_id: Tenant of the caller; may be left out when `authorization` names it.
        user_id: The person calling.
        roles: Role names: `service`, `member`, `tenant_admin`, `auditor`, `operator`.
        request_id: Id that correlates audit events, which hold it in the clear: 1 to 128 letters, digits and
            `. _ : / + = -`; made when left out.
        authorization: An API key or a token to authenticate, as `Bearer …`.
        operator: Identity of a local operator, written as a request id is; audit events name it as their actor.
        client_address: IPv4 or IPv6 address of the caller, as the host's own socket or a proxy it trusts names it;
            an API key with ranges opens nothing without it.

    Yields:
        The context now in force.

    Raises:
        InvalidFilterError: The request id, the operator or the address is none.
    """
    for place, token in (("request_id", request_id), ("operator", operator)):
        if token is not None and not (isinstance(token, str) and _TOKEN.fullmatch(token)):
            raise InvalidFilterError(place=place, reason="must be 1 to 128 letters, digits and . _ : / + = -")
    context = RequestContext(
        tenant_id=tenant_id,
        user_id=user_id,
        roles=frozenset(roles),
        request_id=new_request_id() if request_id is None else request_id,
        authorization=authorization,
        operator=operator,
        client_address=None if client_address is None else parse_address(client_address),
    )
    before = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(before)


def current_context() -> RequestContext | None:
    """The ambient context of this task or thread, if any."""
    return _current.get()


def current_trace_id() -> str | None:
    """The trace this call belongs to, as 32 hex digits, or `None` outside one."""
    context = trace.get_current_span().get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None
