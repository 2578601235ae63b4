"""Import and export keep every law of an operation: the tenant's filter, its rows alone, an intent and an outcome."""

from __future__ import annotations

import gzip
import inspect
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidFilterError,
    LuminescentError,
    PermissionDeniedError,
    ProviderUnavailableError,
    TenantIsolationError,
    UnreadableFileError,
)
from cloud.memory import CloudMemoryProvider
from cloud.tenancy.administration import Administration
from cloud.tenancy.postgres import PostgresTenantStore
from cloud.transfer.checkpoints import FileCheckpoints
from cloud.transfer.service import CloudTransfer
from src.extensions import TenantProvider
from src.testing.samples import sample_memory
from tests.isolation.probes import Onlooker, statements_of
from tests.isolation.test_every_operation import BAD_FILTERS, FilterOf

_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Transfer:
    """One way to call the service.

    Attributes:
        label: Name of the method, and of the way it is called.
        action: What its outcome says; its intent says the same with `.step`.
        role: A role that may do it.
        call: Calls it on a directory with a file to import in it.
        counts: What its event counts.
        asks: How often the tenant's filter is asked for: once, and once for each batch that is stored.
    """

    label: str
    action: str
    role: str
    call: Callable[[CloudTransfer, Path], Awaitable[object]]
    counts: dict[str, int]
    asks: int = 1

    @property
    def step(self) -> str:
        return "memory.import.step" if self.action == "memory.import" else "memory.export.step"


TRANSFERS = (
    Transfer(
        "import_file",
        "memory.import",
        "service",
        lambda t, d: t.import_file(d / "m.jsonl"),
        {"entries": 2, "stored": 2, "repeated": 0, "failed": 0},
        asks=3,
    ),
    Transfer(
        "export:person",
        "memory.export",
        "service",
        lambda t, d: t.export(d / f"{next(_names)}.jsonl", user_id="alice"),
        {"memories": 1, "people": 1},
    ),
    Transfer(
        "export:everybody",
        "memory.export_all",
        "tenant_admin",
        lambda t, d: t.export(d / f"{next(_names)}.jsonl"),
        {"memories": 2, "people": 2},
    ),
)
each = pytest.mark.parametrize("transfer", TRANSFERS, ids=lambda transfer: transfer.label)


@pytest.fixture
async def stage(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> Path:
    """A directory with a file of two people, who have a memory each already."""
    documents = [
        {"user_id": user, "content": "Prefers tea", "memory_type": "fact", "source": "secret-source"}
        for user in ("alice", "bob")
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, documents)))
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many([sample_memory("alice"), sample_memory("bob")], {})
    return tmp_path


@contextmanager
def transfer_with(
    runtime: CloudRuntime, onlooker: Onlooker, tenants: TenantProvider, tmp: Path
) -> Iterator[CloudTransfer]:
    """The service of the installation with another tenant provider at its door."""
    config = runtime.pixeltable_config
    memory = CloudMemoryProvider(config, tenants, runtime.audit, runtime.usage)
    directory = PostgresTenantStore(onlooker.installation.engines.maintenance)
    door = Administration(tenants, config.identities, runtime.audit, directory)
    yield CloudTransfer(config, memory, door, runtime.audit, FileCheckpoints(tmp / "checkpoints"))
    memory.close()


def of(events: list[dict[str, Any]], transfer: Transfer) -> list[dict[str, Any]]:
    return [event for event in events if event["action"] in (transfer.action, transfer.step)]


def test_every_asynchronous_method_is_listed() -> None:
    methods = {n for n, _ in inspect.getmembers(CloudTransfer, inspect.iscoroutinefunction) if not n.startswith("_")}
    public = {n for n, _ in inspect.getmembers(CloudTransfer, callable) if not n.startswith("_")}
    assert public == methods == {transfer.label.partition(":")[0] for transfer in TRANSFERS}


@each
async def test_the_tenant_filter_is_asked_for(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, transfer: Transfer, stage: Path
) -> None:
    tenants = FilterOf(runtime)
    with (
        transfer_with(runtime, onlooker, tenants, stage) as service,
        request_context(tenant_id=tenant_id, roles={transfer.role}),
    ):
        await transfer.call(service, stage)
    assert tenants.asked == [tenant_id] * transfer.asks


@each
@pytest.mark.parametrize("label", BAD_FILTERS)
async def test_a_filter_that_is_not_the_tenants_own_stops_everything(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, transfer: Transfer, label: str, stage: Path
) -> None:
    answer, reason = BAD_FILTERS[label]
    before = onlooker.counts(), sorted(path.name for path in stage.iterdir())
    with (
        onlooker.new_events() as events,
        transfer_with(runtime, onlooker, FilterOf(runtime, answer, bad=True), stage / "..") as service,
        request_context(tenant_id=tenant_id, roles={transfer.role}),
        pytest.raises(TenantIsolationError),
    ):
        await transfer.call(service, stage)
    assert (onlooker.counts(), sorted(path.name for path in stage.iterdir())) == before
    assert [(e["log_id"], e["category"], e["action"], e["outcome"], e["reason"]) for e in events] == [
        (tenant_id, "security", transfer.action, "denied", f"tenant_isolation:{reason}")
    ]


@each
@pytest.mark.parametrize("temperature", ["hot", "cold"])
async def test_every_statement_names_the_tenant(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, transfer: Transfer, temperature: str, stage: Path
) -> None:
    if temperature == "cold":
        await runtime.drain()
        runtime.pixeltable_config.hot.clear()
    engines = onlooker.installation.engines
    with (
        statements_of(engines.app) as sent,
        statements_of(engines.maintenance) as others,
        request_context(tenant_id=tenant_id, roles={transfer.role}),
    ):
        await transfer.call(runtime.transfer, stage)
    assert sent
    assert others == []
    for _, statement, parameters in sent:
        assert parameters["tenant"] == tenant_id, statement


@each
async def test_an_intent_comes_before_and_an_outcome_after(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, transfer: Transfer, stage: Path
) -> None:
    with (
        onlooker.new_events() as events,
        request_context(tenant_id=tenant_id, user_id="caller", roles={transfer.role}, request_id="request/17"),
    ):
        await transfer.call(runtime.transfer, stage)
    intent, outcome = of(events, transfer)
    caller = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "caller", create=False)
    alice = runtime.pixeltable_config.keyring.resolve_subject(tenant_id, "alice", create=False)
    assert caller is not None
    assert alice is not None
    for event in (intent, outcome):
        assert event["actor"] == {"kind": "subject", "id": caller.subject_id, "roles": [transfer.role]}
        assert (event["log_id"], event["outcome"], event["request_id"]) == (tenant_id, "allowed", "request/17")
        assert event["subject_id"] == (alice.subject_id if transfer.action == "memory.export" else None)
    assert (intent["action"], intent["reason"]) == (transfer.step, "intent")
    assert (outcome["action"], outcome["reason"], outcome["counts"]) == (transfer.action, None, transfer.counts)
    assert len(events) == 2 + transfer.asks - 1
    for personal in ("alice", "bob", "tea", "secret-source", "m.jsonl"):
        assert personal not in json.dumps(events)


@each
async def test_what_is_refused_or_fails_is_recorded_once_and_leaves_nothing(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, transfer: Transfer, stage: Path
) -> None:
    def fail() -> None:
        raise ProviderUnavailableError("a part")

    before = onlooker.counts()["memories"], sorted(path.name for path in stage.iterdir())
    with (
        onlooker.new_events() as events,
        request_context(tenant_id=tenant_id, roles={"auditor"}),
        pytest.raises(PermissionDeniedError),
    ):
        await transfer.call(runtime.transfer, stage)
    assert [(e["action"], e["outcome"], e["reason"]) for e in events] == [
        (transfer.action, "denied", "permission_denied:role_missing")
    ]
    failpoints.arm("import.begun" if transfer.action == "memory.import" else "export.begun", fail)
    try:
        with (
            onlooker.new_events() as events,
            request_context(tenant_id=tenant_id, roles={transfer.role}),
            pytest.raises(ProviderUnavailableError),
        ):
            await transfer.call(runtime.transfer, stage)
    finally:
        failpoints.disarm_all()
    assert [(e["action"], e["outcome"], e["reason"]) for e in events] == [
        (transfer.step, "allowed", "intent"),
        (transfer.action, "failed", "unavailable"),
    ]
    assert (onlooker.counts()["memories"], sorted(path.name for path in stage.iterdir())) == before


async def test_arguments_that_cannot_be_are_recorded_once(
    runtime: CloudRuntime, onlooker: Onlooker, tenant_id: str, stage: Path
) -> None:
    zipped = stage / "f.zip"
    zipped.write_bytes(b"PK\x03\x04 and nothing more")
    transfer = runtime.transfer
    wrong: list[tuple[str, type[LuminescentError], Callable[[], Awaitable[object]]]] = [
        ("memory.import", ConfigurationError, lambda: transfer.import_file(stage / "m.jsonl", format="xml")),
        ("memory.import", ConfigurationError, lambda: transfer.import_file("/dev/null")),
        ("memory.import", UnreadableFileError, lambda: transfer.import_file(stage / "missing")),
        ("memory.import", ConfigurationError, lambda: transfer.import_file(zipped)),
        ("memory.import", InvalidFilterError, lambda: transfer.import_file(stage / "m.jsonl", user_id="")),
        ("memory.export", InvalidFilterError, lambda: transfer.export(stage / "e", user_id="a\0")),
        ("memory.export_all", InvalidFilterError, lambda: transfer.export(stage / "e", filters={"colour": 1})),
        ("memory.export_all", ConfigurationError, lambda: transfer.export(stage / "m.jsonl")),
    ]
    for action, error, call in wrong:
        with (
            onlooker.new_events() as events,
            request_context(tenant_id=tenant_id, roles={"tenant_admin"}),
            pytest.raises(error),
        ):
            await call()
        assert [(e["action"], e["outcome"]) for e in events] == [(action, "failed")], (action, events)
    with onlooker.new_events() as events, request_context(tenant_id=tenant_id, roles={"service"}):
        report = await transfer.import_file(zipped, user_id="alice")
    assert isinstance(report.stopped, UnreadableFileError)
    assert [(e["action"], e["outcome"], e["reason"]) for e in events] == [
        ("memory.import.step", "allowed", "intent"),
        ("memory.import", "failed", "unreadable_file:compression"),
    ]


BLANK_LINES = (b" " * 1023 + b"\n") * (80 * 2**10)


@pytest.mark.parametrize(
    ("name", "content", "outcome", "reason", "failed"),
    [
        ("bomb.jsonl.gz", gzip.compress(BLANK_LINES), "failed", "unreadable_file:too_large", 0),
        ("line.jsonl", b'{"content": "' + b"x" * (10 * 2**20) + b'"}\n', "allowed", None, 1),
    ],
    ids=["a compressed bomb", "a line of 10 MB"],
)
async def test_what_is_too_large_is_recorded_with_how_it_ended(
    runtime: CloudRuntime,
    onlooker: Onlooker,
    tenant_id: str,
    tmp_path: Path,
    name: str,
    content: bytes,
    outcome: str,
    reason: str | None,
    failed: int,
) -> None:
    (tmp_path / name).write_bytes(content)
    before = onlooker.counts()["memories"]
    with onlooker.new_events() as events, request_context(tenant_id=tenant_id, roles={"service"}):
        report = await runtime.transfer.import_file(tmp_path / name, format="jsonl", user_id="alice")
    assert (report.stored, report.failed) == (0, failed)
    assert onlooker.counts()["memories"] == before
    assert [(e["action"], e["outcome"], e["reason"]) for e in events] == [
        ("memory.import.step", "allowed", "intent"),
        ("memory.import", outcome, reason),
    ]
    assert (events[-1]["counts"]["stored"], events[-1]["counts"]["failed"]) == (0, failed)


@each
async def test_without_a_caller_nothing_happens(runtime: CloudRuntime, transfer: Transfer, stage: Path) -> None:
    with pytest.raises(AuthenticationError):
        await transfer.call(runtime.transfer, stage)
