"""Laws of tenants and keys where the server committed and could not say so: done once, recorded once, and answered."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import AuthenticationError, ConfigurationError, PermissionDeniedError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.storage.engine import ControlEngine
from cloud.tenancy.model import TenantState
from src.testing.samples import sample_memory
from tests.support.lost_commits import lost_commit


@pytest.fixture
def engine(runtime: CloudRuntime) -> ControlEngine:
    return runtime._installation.engines.maintenance


def of_keys(runtime: CloudRuntime, log_id: str) -> list[tuple[Any, ...]]:
    return [
        (event["action"], event["outcome"], event["reason"])
        for event in runtime.audit._store.events(log_id, since=None, until=None)
        if event["action"].startswith("api_key.")
    ]


def id_of(text: str) -> str:
    return text.split("_")[1]


async def test_a_key_is_made_once_and_its_text_is_had(
    runtime: CloudRuntime, engine: ControlEngine, tenant_id: str
) -> None:
    with lost_commit(engine):
        text = runtime.api_keys.create(tenant_id, roles={"service"})
    assert [key.key_id for key in runtime.api_keys.list(tenant_id)] == [id_of(text)]
    assert of_keys(runtime, tenant_id) == [("api_key.create", "allowed", None)]
    with request_context(authorization=text):
        await runtime.memory.store(sample_memory("bob"), {})


async def test_a_key_is_rotated_once_and_its_successor_opens(
    runtime: CloudRuntime, engine: ControlEngine, tenant_id: str
) -> None:
    old = runtime.api_keys.create(tenant_id, roles={"service"})
    with lost_commit(engine):
        new = runtime.api_keys.rotate(tenant_id, id_of(old), grace=timedelta(0))
    assert {key.key_id: key.successor_id for key in runtime.api_keys.list(tenant_id)} == {
        id_of(old): id_of(new),
        id_of(new): None,
    }
    assert of_keys(runtime, tenant_id)[1:] == [("api_key.rotate", "allowed", None)]
    with request_context(authorization=new):
        await runtime.memory.store(sample_memory("bob"), {})
    with request_context(authorization=old), pytest.raises(AuthenticationError):
        await runtime.memory.store(sample_memory("bob"), {})


def test_a_key_is_revoked_once_and_known_to_be(runtime: CloudRuntime, engine: ControlEngine, tenant_id: str) -> None:
    key_id = id_of(runtime.api_keys.create(tenant_id, roles={"service"}))
    with lost_commit(engine):
        assert runtime.api_keys.revoke(tenant_id, key_id)
    assert of_keys(runtime, tenant_id)[1:] == [("api_key.revoke", "allowed", None)]
    unknown = len(of_keys(runtime, SYSTEM_LOG))
    with lost_commit(engine):
        assert not runtime.api_keys.revoke(tenant_id, key_id), "revoked before, by another call"
    assert of_keys(runtime, SYSTEM_LOG)[unknown:] == [("api_key.revoke", "allowed", "not_found")]


def test_a_refusal_whose_answer_was_lost_is_no_success(
    runtime: CloudRuntime, engine: ControlEngine, tenant_id: str
) -> None:
    key_id = id_of(runtime.api_keys.create(tenant_id, roles={"service"}))
    state = sa.text("UPDATE tenants SET state = :state WHERE tenant_id = :tenant")
    engine.transaction(lambda c: c.execute(state, {"state": "closing", "tenant": tenant_id}))
    try:
        with lost_commit(engine), pytest.raises(PermissionDeniedError, match="tenant_closing"):
            runtime.api_keys.create(tenant_id, roles={"service"})
        with lost_commit(engine), pytest.raises(ConfigurationError):
            runtime.api_keys.rotate(tenant_id, key_id)
    finally:
        engine.transaction(lambda c: c.execute(state, {"state": "active", "tenant": tenant_id}))
    assert [(key.key_id, key.successor_id) for key in runtime.api_keys.list(tenant_id)] == [(key_id, None)]
    assert of_keys(runtime, tenant_id)[1:] == [
        ("api_key.create", "denied", "tenant_closing"),
        ("api_key.rotate", "denied", "tenant_closing"),
    ]


def test_a_change_of_a_tenant_is_not_done_again_over_a_newer_one(
    runtime: CloudRuntime, engine: ControlEngine, tenant_id: str
) -> None:
    with lost_commit(engine, meanwhile=lambda: runtime.tenants.resume(tenant_id)):
        runtime.tenants.suspend(tenant_id)
    with lost_commit(engine, meanwhile=lambda: runtime.tenants.change(tenant_id, limits={"memories": 9})):
        runtime.tenants.change(tenant_id, limits={"memories": 7})
    (tenant,) = [one for one in runtime.tenants.list() if one.tenant_id == tenant_id]
    assert (tenant.state, tenant.limits) == (TenantState.ACTIVE, {"memories": 9})
    recorded = [event["action"] for event in runtime.audit._store.events(tenant_id, since=None, until=None)]
    assert recorded == ["tenant.create", "tenant.suspend", "tenant.resume", "tenant.change", "tenant.change"]


def test_a_tenant_is_created_once(runtime: CloudRuntime, engine: ControlEngine, tenant_id: str) -> None:
    with lost_commit(engine):
        made = runtime.tenants.create(f"{tenant_id}-lost", plan="team", limits={"memories": 7})
    assert made in runtime.tenants.list()
    events = list(runtime.audit._store.events(made.tenant_id, since=None, until=None))
    assert [(event["action"], event["outcome"], event["reason"]) for event in events] == [
        ("tenant.create", "allowed", None)
    ]
