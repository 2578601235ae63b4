"""No operation without the tenant's filter, the quota's word, and a scope on every statement and query."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel.errors import TenantIsolationError
from cloud.memory import CloudMemoryProvider
from cloud.usage.service import CloudUsageTracker
from tests.isolation.operations import GDPR_OPERATIONS, OPERATIONS, PROVIDER_OPERATIONS, Operation, staged
from tests.isolation.probes import Onlooker, statements_of

_NOT_OPERATIONS = {"close"}
_PLAIN_STATEMENTS = re.compile(r"SELECT pg_(try_)?advisory_(un)?lock\(")
_OF_THE_INSTALLATION = ("keyring_state", "FROM data_backups", "FROM keyring_backups")
"""About nobody: which keyring it is, and which backups there are."""
_OTHER = "someone-elses-tenant"

BAD_FILTERS: dict[str, tuple[object, str]] = {
    "none": (None, "empty"),
    "empty": ({}, "empty"),
    "a list": ([("tenant_id", {"$eq": "{own}"})], "malformed"),
    "text": ("tenant_id = '{own}'", "malformed"),
    "another field": ({"workspace": {"$eq": "{own}"}}, "missing_tenant"),
    "no operand": ({"tenant_id": None}, "malformed"),
    "empty operand": ({"tenant_id": {}}, "malformed"),
    "a bare value": ({"tenant_id": "{own}"}, "malformed"),
    "no tenant": ({"tenant_id": {"$eq": None}}, "missing_tenant"),
    "empty tenant": ({"tenant_id": {"$eq": ""}}, "missing_tenant"),
    "another tenant": ({"tenant_id": {"$eq": _OTHER}}, "foreign_tenant"),
    "prefix of the tenant": ({"tenant_id": {"$eq": "{own}2"}}, "foreign_tenant"),
    "pattern": ({"tenant_id": {"$eq": "%"}}, "foreign_tenant"),
    "not equal": ({"tenant_id": {"$ne": _OTHER}}, "malformed"),
    "several tenants": ({"tenant_id": {"$in": ["{own}", _OTHER]}}, "malformed"),
    "only this one in a list": ({"tenant_id": {"$in": ["{own}"]}}, "malformed"),
    "one operator too many": ({"tenant_id": {"$eq": "{own}", "$ne": _OTHER}}, "malformed"),
    "one key too many": ({"tenant_id": {"$eq": "{own}"}, "user_id": {"$eq": "alice"}}, "malformed"),
    "a way out": ({"tenant_id": {"$eq": "{own}"}, "$or": [{"tenant_id": {"$exists": True}}]}, "malformed"),
    "nested": ({"$or": [{"tenant_id": {"$eq": "{own}"}}]}, "missing_tenant"),
}


class FilterOf:
    """A foreign tenant provider: it names the ambient tenant, remembers who asked, and answers with one filter."""

    def __init__(self, runtime: CloudRuntime, answer: object | None = None, *, bad: bool = False) -> None:
        self._tenants = runtime.tenant_provider
        self._answer = answer
        self._bad = bad
        self.asked: list[str] = []

    def get_tenant_id(self, request_context: Mapping[str, object]) -> str | None:
        return self._tenants.get_tenant_id(request_context)

    def get_tenant_filter(self, tenant_id: str) -> Any:
        self.asked.append(tenant_id)
        return _with_own(self._answer, tenant_id) if self._bad else self._tenants.get_tenant_filter(tenant_id)

    def validate_tenant_access(self, tenant_id: str, user_id: str, resource: str) -> bool:
        return self._tenants.validate_tenant_access(tenant_id, user_id, resource)


def _with_own(value: object, tenant_id: str) -> object:
    match value:
        case str():
            return value.replace("{own}", tenant_id)
        case dict():
            return {key: _with_own(item, tenant_id) for key, item in value.items()}
        case list() | tuple():
            return type(value)(_with_own(item, tenant_id) for item in value)
        case _:
            return value


class SpyingTracker(CloudUsageTracker):
    """The cloud tracker, remembering whose quota was asked about."""

    asked: list[tuple[str, str]]

    def check_quota(self, tenant_id: str, operation: str) -> tuple[bool, str | None]:
        self.asked.append((tenant_id, operation))
        return super().check_quota(tenant_id, operation)


def spying_tracker(runtime: CloudRuntime) -> SpyingTracker:
    tracker = SpyingTracker(runtime.usage._store, runtime.usage._clock)
    tracker.asked = []
    return tracker


def each(operations: tuple[Operation, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", operations, ids=lambda operation: operation.label)


@pytest.mark.parametrize(
    ("kind", "operations"), [(CloudMemoryProvider, PROVIDER_OPERATIONS), (CloudGDPRService, GDPR_OPERATIONS)]
)
def test_every_asynchronous_method_is_a_classified_operation(kind: type, operations: tuple[Operation, ...]) -> None:
    methods = {name for name, _ in inspect.getmembers(kind, inspect.iscoroutinefunction) if not name.startswith("_")}
    assert methods == {operation.method for operation in operations}


def test_every_public_method_of_the_provider_is_an_operation_or_known_not_to_be() -> None:
    public = {name for name, _ in inspect.getmembers(CloudMemoryProvider, callable) if not name.startswith("_")}
    assert public - {operation.method for operation in PROVIDER_OPERATIONS} == _NOT_OPERATIONS


@each(OPERATIONS)
async def test_the_tenant_filter_is_asked_for(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    tenants = FilterOf(runtime)
    memory = CloudMemoryProvider(runtime.pixeltable_config, tenants, runtime.audit, runtime.usage)
    with request_context(tenant_id=tenant_id, roles={operation.role}):
        await operation.call(memory, onlooker.gdpr_with(tenants), stage)
    memory.close()
    assert tenants.asked == [tenant_id]


@each(PROVIDER_OPERATIONS)
async def test_the_quota_is_asked_for_by_writes_alone(
    runtime: CloudRuntime, tenant_id: str, operation: Operation, tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    usage = spying_tracker(runtime)
    memory = CloudMemoryProvider(runtime.pixeltable_config, runtime.tenant_provider, runtime.audit, usage)
    with request_context(tenant_id=tenant_id, roles={operation.role}):
        await operation.call(memory, runtime.gdpr, stage)
    memory.close()
    assert usage.asked == ([(tenant_id, operation.action)] if operation.writes else [])


@each(OPERATIONS)
@pytest.mark.parametrize("label", BAD_FILTERS)
async def test_a_filter_that_is_not_the_tenants_own_stops_everything(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, label: str, tmp_path: Path
) -> None:
    answer, reason = BAD_FILTERS[label]
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    tenants = FilterOf(runtime, answer, bad=True)
    memory = CloudMemoryProvider(runtime.pixeltable_config, tenants, runtime.audit, runtime.usage)
    before = onlooker.counts(), onlooker.used(tenant_id)
    with (
        onlooker.new_events() as events,
        statements_of(onlooker.installation.engines.app) as sent,
        request_context(tenant_id=tenant_id, roles={operation.role}),
        pytest.raises(TenantIsolationError) as refused,
    ):
        await operation.call(memory, onlooker.gdpr_with(tenants), stage)
    memory.close()
    assert refused.value.reason == reason
    assert (onlooker.counts(), onlooker.used(tenant_id)) == before
    assert {_called(statement) for _, statement, _ in sent} == {"lc_record"}
    assert [(e["log_id"], e["category"], e["action"], e["outcome"], e["reason"]) for e in events] == [
        (tenant_id, "security", operation.action, "denied", f"tenant_isolation:{reason}")
    ]
    assert _OTHER not in repr(events) + str(refused.value)


@each(PROVIDER_OPERATIONS)
@pytest.mark.parametrize("temperature", ["hot", "cold"])
async def test_every_statement_of_the_request_path_names_the_tenant(
    runtime: CloudRuntime,
    onlooker: Onlooker,
    tenant_id: str,
    operation: Operation,
    temperature: str,
    tmp_path: Path,
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    if temperature == "cold":
        await runtime.drain()
        runtime.pixeltable_config.hot.clear()
    with (
        statements_of(onlooker.installation.engines.app) as sent,
        request_context(tenant_id=tenant_id, roles={operation.role}),
    ):
        await operation.call(runtime.memory, runtime.gdpr, stage)
    assert sent
    entered: dict[int, str] = {}
    for connection, statement, parameters in sent:
        if "set_config('luminescent.tenant'" in statement:
            (entered[connection],) = parameters.values()
        elif _called(statement) is not None:
            assert parameters["tenant"] == tenant_id, statement
        else:
            assert entered.get(connection) == tenant_id, statement
    assert set(entered.values()) <= {tenant_id}


@each(GDPR_OPERATIONS)
async def test_every_statement_of_administration_on_a_person_names_the_tenant(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, operation: Operation, tmp_path: Path
) -> None:
    stage = await staged(runtime, tenant_id, tmp_path, operation=operation)
    engines = onlooker.installation.engines
    with (
        statements_of(engines.app) as on_app,
        statements_of(engines.maintenance) as on_maintenance,
        request_context(tenant_id=tenant_id, roles={operation.role}),
    ):
        await operation.call(runtime.memory, runtime.gdpr, stage)
    assert on_maintenance
    for _, statement, parameters in (*on_app, *on_maintenance):
        known = _PLAIN_STATEMENTS.match(statement) or any(name in statement for name in _OF_THE_INSTALLATION)
        assert tenant_id in parameters.values() or known, statement


def _called(statement: str) -> str | None:
    found = re.match(r"SELECT (lc_[a-z]+)\(", statement)
    return found[1] if found else None
