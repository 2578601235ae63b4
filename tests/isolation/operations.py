"""Every operation on a person's memories, enumerated: a method that is not listed here fails a test."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloud import CloudRuntime, request_context
from cloud.gdpr.model import Erasure, LegalHold
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel import failpoints
from cloud.kernel.errors import ProviderUnavailableError
from cloud.memory import CloudMemoryProvider
from src.testing.samples import sample_memory

_exports = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Stage:
    """What an operation is tried on: a person of a tenant, with one memory and a deleted one."""

    tenant_id: str
    user_id: str
    memory_id: str
    deleted_id: str
    directory: Path
    request_id: str = ""
    seen: str = ""
    hold_id: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        label: Name of the method, and of the way it is called where there are several.
        action: What its audit event says.
        role: A role that may do it.
        call: Calls it on the stage's own person.
        writes: Whether it needs quota.
        needs: The state of a request that it is tried on, or `hold` for a legal hold.
    """

    label: str
    action: str
    role: str
    call: Callable[[CloudMemoryProvider, CloudGDPRService, Stage], Awaitable[object]]
    writes: bool = False
    needs: str = ""

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.label.partition(":")[0]


PROVIDER_OPERATIONS = (
    Operation("store", "memory.store", "service", lambda m, _, s: m.store(sample_memory(s.user_id), {}), writes=True),
    Operation(
        "store_many",
        "memory.store_many",
        "service",
        lambda m, _, s: m.store_many([sample_memory(s.user_id), sample_memory("somebody else")], {}),
        writes=True,
    ),
    Operation("retrieve", "memory.retrieve", "service", lambda m, _, s: m.retrieve("tabs?", s.user_id)),
    Operation("search", "memory.search", "service", lambda m, _, s: m.search(s.user_id, {"source": "conversation"})),
    Operation("search:ranked", "memory.search", "service", lambda m, _, s: m.search(s.user_id, {"query": "tabs?"})),
    Operation("get_by_id", "memory.get", "service", lambda m, _, s: m.get_by_id(s.memory_id)),
    Operation("delete", "memory.delete", "service", lambda m, _, s: m.delete(s.memory_id)),
    Operation("update", "memory.update", "service", lambda m, _, s: m.update(s.memory_id, {"content": "Uses spaces"})),
    Operation(
        "supersede",
        "memory.supersede",
        "service",
        lambda m, _, s: m.supersede(s.memory_id, sample_memory(s.user_id), {}),
    ),
    Operation("undelete", "memory.undelete", "service", lambda m, _, s: m.undelete(s.deleted_id)),
    Operation("history", "memory.history", "service", lambda m, _, s: m.history(s.memory_id)),
    Operation("list", "memory.list", "service", lambda m, _, s: m.list(s.user_id, filters={"source": "conversation"})),
    Operation("count", "memory.count", "service", lambda m, _, s: m.count(s.user_id)),
)
GDPR_OPERATIONS = (
    Operation("delete_user_data:preview", "gdpr.preview", "tenant_admin", lambda _, g, s: _preview(g, s)),
    Operation("delete_user_data:confirmed", "gdpr.erase", "tenant_admin", lambda _, g, s: _erase(g, s)),
    Operation("export_user_data", "gdpr.export", "tenant_admin", lambda _, g, s: _export(g, s)),
    Operation(
        "request_erasure", "gdpr.request", "tenant_admin", lambda _, g, s: g.request_erasure(s.user_id, s.tenant_id)
    ),
    Operation("requests", "gdpr.list", "tenant_admin", lambda _, g, s: g.requests(s.tenant_id)),
    Operation("show", "gdpr.show", "tenant_admin", lambda _, g, s: g.show(s.request_id, s.tenant_id), needs="received"),
    Operation(
        "verify_identity",
        "gdpr.verify_identity",
        "tenant_admin",
        lambda _, g, s: g.verify_identity(s.request_id, s.tenant_id, method="passport"),
        needs="received",
    ),
    Operation(
        "preview_request",
        "gdpr.preview",
        "tenant_admin",
        lambda _, g, s: g.preview_request(s.request_id, s.tenant_id),
        needs="identity_verified",
    ),
    Operation(
        "confirm",
        "gdpr.erase",
        "tenant_admin",
        lambda _, g, s: g.confirm(s.request_id, s.tenant_id, seen=s.seen),
        needs="previewed",
    ),
    Operation(
        "resume_request",
        "gdpr.erase",
        "tenant_admin",
        lambda _, g, s: g.resume_request(s.request_id, s.tenant_id),
        needs="failed",
    ),
    Operation(
        "certificate",
        "gdpr.certificate",
        "tenant_admin",
        lambda _, g, s: g.certificate(s.request_id, s.tenant_id),
        needs="certified",
    ),
    Operation(
        "cancel",
        "gdpr.cancel",
        "tenant_admin",
        lambda _, g, s: g.cancel(s.request_id, s.tenant_id, reason="withdrawn"),
        needs="received",
    ),
    Operation(
        "reject",
        "gdpr.reject",
        "tenant_admin",
        lambda _, g, s: g.reject(s.request_id, s.tenant_id, reason="excessive"),
        needs="received",
    ),
    Operation(
        "extend",
        "gdpr.extend",
        "tenant_admin",
        lambda _, g, s: g.extend(s.request_id, s.tenant_id, reason="many", notified_at=datetime.now(UTC)),
        needs="received",
    ),
    Operation("hold", "gdpr.hold", "tenant_admin", lambda _, g, s: _hold(g, s)),
    Operation("holds", "gdpr.holds", "tenant_admin", lambda _, g, s: g.holds(s.tenant_id)),
    Operation(
        "release", "gdpr.release", "tenant_admin", lambda _, g, s: g.release(s.hold_id, s.tenant_id), needs="hold"
    ),
)
OPERATIONS = (*PROVIDER_OPERATIONS, *GDPR_OPERATIONS)


async def staged(
    runtime: CloudRuntime,
    tenant_id: str,
    directory: Path,
    *,
    user_id: str = "alice",
    operation: Operation | None = None,
) -> Stage:
    """A person with one memory and a deleted one, and what the operation needs beside."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        memory_id = await runtime.memory.store(sample_memory(user_id), {})
        deleted_id = await runtime.memory.store(sample_memory(user_id), {})
        await runtime.memory.delete(deleted_id)
    stage = Stage(tenant_id, user_id, memory_id, deleted_id, directory)
    return stage if operation is None or not operation.needs else await prepared(runtime.gdpr, stage, operation.needs)


async def prepared(gdpr: CloudGDPRService, stage: Stage, needs: str) -> Stage:
    """The stage with a hold, or a request in the state that is needed; the caller may erase."""
    if needs == "hold":
        return replace(stage, hold_id=(await _hold(gdpr, stage)).hold_id)
    if needs == "certified":
        # Of somebody else: this person stays, as with every other operation.
        erased = await gdpr.delete_user_data("somebody-else", stage.tenant_id, confirmed=True)
        assert isinstance(erased, Erasure)
        return replace(stage, request_id=erased.erasure_id)
    request = await gdpr.request_erasure(stage.user_id, stage.tenant_id)
    stage = replace(stage, request_id=request.erasure_id)
    if needs in ("identity_verified", "previewed", "failed"):
        await gdpr.verify_identity(stage.request_id, stage.tenant_id, method="passport")
    if needs in ("previewed", "failed"):
        stage = replace(stage, seen=(await gdpr.preview_request(stage.request_id, stage.tenant_id)).digest)
    if needs == "failed":
        failpoints.arm("erase.frozen", _fail)
        try:
            with pytest.raises(ProviderUnavailableError):
                await gdpr.confirm(stage.request_id, stage.tenant_id, seen=stage.seen)
        finally:
            failpoints.disarm_all()
    return stage


def _fail() -> None:
    raise ProviderUnavailableError("a part")


async def _hold(gdpr: CloudGDPRService, stage: Stage) -> LegalHold:
    review_at = datetime.now(UTC) + timedelta(days=30)
    return await gdpr.hold(
        stage.tenant_id, user_id=stage.user_id, reason="a dispute", authority="a court", review_at=review_at
    )


async def _preview(gdpr: CloudGDPRService, stage: Stage) -> object:
    return await gdpr.delete_user_data(stage.user_id, stage.tenant_id)


async def _erase(gdpr: CloudGDPRService, stage: Stage) -> object:
    return await gdpr.delete_user_data(stage.user_id, stage.tenant_id, confirmed=True, reason="request 17")


async def _export(gdpr: CloudGDPRService, stage: Stage) -> object:
    return await gdpr.export_user_data(stage.user_id, stage.tenant_id, stage.directory / f"export-{next(_exports)}")
