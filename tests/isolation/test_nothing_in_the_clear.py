"""Nothing personal in the database's files, the logs, the audit events or the messages of errors."""

from __future__ import annotations

import base64
import logging
import secrets
import string
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud import CloudRuntime, request_context
from cloud.storage.roles import MAINTENANCE_ROLE
from src.errors import LuminescentError
from src.memory.schemas import Memory, MemoryType
from tests.isolation.probes import Onlooker


def _canary(name: str) -> str:
    return name + "".join(secrets.choice(string.ascii_letters) for _ in range(24))


@dataclass(frozen=True, slots=True)
class Canaries:
    """A word of its own for each thing that must not be seen."""

    user_id: str
    content: str
    source: str
    raw_source: str
    metadata_key: str
    metadata_value: str
    provenance: str
    query: str
    filter_value: str
    idempotency_key: str
    reason: str
    said: str
    member: str
    context_user: str

    def memory(self, **changed: object) -> Memory:
        memory = Memory(
            user_id=self.user_id,
            content=f"remembers {self.content}",
            memory_type=MemoryType.FACT,
            source=self.source,
            raw_source=self.raw_source,
            metadata={self.metadata_key: self.metadata_value},
            provenance={"from": self.provenance},
        )
        return memory.model_copy(update=changed)

    def all(self) -> list[str]:
        return [getattr(self, field.name) for field in fields(self)]


@pytest.fixture
def canaries() -> Canaries:
    return Canaries(**{field.name: _canary(field.name.replace("_", "")) for field in fields(Canaries)})


class Life:
    """Everything that can be done with a memory, also wrongly; it keeps the errors."""

    def __init__(self, runtime: CloudRuntime, canaries: Canaries, tenant_id: str, directory: Path) -> None:
        self.runtime, self.canaries, self.tenant_id, self.directory = runtime, canaries, tenant_id, directory
        self.errors: list[BaseException] = []

    async def fails(self, call: Awaitable[object]) -> None:
        with pytest.raises(LuminescentError) as raised:
            await call
        self.errors.append(raised.value)

    async def live(self) -> None:
        memory, c = self.runtime.memory, self.canaries
        with self._as("service"):
            memory_id = await memory.store(c.memory(), {"idempotency_key": c.idempotency_key})
            await memory.store_many([c.memory(), c.memory(user_id=c.member)], {})
            soon = datetime.now(UTC) + timedelta(days=1)
            await memory.store(c.memory(expires_at=soon), {})
            assert await memory.retrieve(c.query, c.user_id)
            assert await memory.search(c.user_id, {"source": c.source, "query": c.query})
            await memory.search(c.user_id, {f"metadata.{c.metadata_key}": c.filter_value})
            assert await memory.get_by_id(memory_id)
            await self.runtime.drain()
            self.runtime.pixeltable_config.hot.clear()
            assert await memory.retrieve(c.query, c.user_id)
            assert await memory.delete(memory_id)
            await self._mistakes()
        with self._as("member"):
            await self.fails(memory.retrieve(c.query, c.user_id))
            await self.fails(memory.store(c.memory(), {"tenant_id": "another"}))
        await self.fails(memory.store(c.memory(), {}))
        await self.fails(memory.store(c.memory(), {"tenant_id": "nobody-here", "user_id": c.context_user}))
        await memory.store(c.memory(user_id=c.context_user), {"tenant_id": self.tenant_id, "user_id": c.context_user})
        key = self.runtime.api_keys.create(self.tenant_id, roles={"member"}, user_id=c.member)
        await memory.store(c.memory(user_id=c.member), {"authorization": key})
        await self._reports()
        await self.runtime.gdpr.export_user_data(c.user_id, self.tenant_id, self.directory)
        await self.runtime.gdpr.delete_user_data(c.user_id, self.tenant_id)
        await self.runtime.gdpr.delete_user_data(c.member, self.tenant_id, confirmed=True, reason=c.reason)
        await self.runtime.drain()

    async def _mistakes(self) -> None:
        memory, c = self.runtime.memory, self.canaries
        for changed in (
            {"content": c.content + "\0"},
            {"content": c.content * 10_000},
            {"user_id": c.user_id + "\n"},
            {"source": c.source * 100},
            {"memory_type": c.content},
            {"confidence": c.content},
            {"metadata": {c.metadata_key: {c.metadata_value}}},
            {"metadata": {c.metadata_key: c.metadata_value + "\ud800"}},
            {"created_at": c.content},
        ):
            await self.fails(memory.store(c.memory(**changed), {}))
        wrong: tuple[dict[str, Any], ...] = (
            {"source": {"$gte": [c.filter_value]}},
            {"source": {"$regex": c.filter_value}},
            {"memory_type": c.filter_value},
            {"created_at": c.filter_value},
            {"query": c.query + "\0"},
            {f"{c.filter_value} {c.user_id}": 1},
        )
        for filters in wrong:
            await self.fails(memory.search(c.user_id, filters))
        await self.fails(memory.retrieve(c.query + "\ud800", c.user_id))
        await self.fails(memory.retrieve(c.query, c.user_id + "\0"))
        await self.fails(memory.store(c.memory(content=c.said), {"idempotency_key": c.idempotency_key}))
        assert await memory.get_by_id(c.content) is None

    async def _reports(self) -> None:
        audit, c = self.runtime.audit, self.canaries
        with self._as("service"):
            audit.log_event("login", c.member, c.said, c.said, "success", {"note": c.said})
            audit.log_security_event("odd", "warning", c.said, {"user_id": c.user_id})
            await audit.log({"operation": c.said, "tenant_id": self.tenant_id, "user_id": c.user_id, c.said: c.said})

    def _as(self, role: str) -> Any:
        return request_context(tenant_id=self.tenant_id, user_id=self.canaries.member, roles={role})


async def test_logs_events_and_errors_name_nobody_and_quote_nothing(
    runtime: CloudRuntime,
    onlooker: Onlooker,
    canaries: Canaries,
    tenant_id: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    life = Life(runtime, canaries, tenant_id, tmp_path / "export")
    with onlooker.new_events() as events:
        await life.live()
    assert len(events) > 30
    assert len(life.errors) > 15
    told = {
        "events": repr(events),
        "errors": "\n".join(f"{one} {one!r} {vars(one)}" for error in life.errors for one in _chain(error)),
        "logs": "\n".join(f"{r.getMessage()} {r.exc_text} {r.args!r}" for r in caplog.records),
    }
    for place, text in told.items():
        assert [word for word in canaries.all() if word in text] == [], place


async def test_no_file_of_the_installation_holds_anything_personal(
    runtime: CloudRuntime, onlooker: Onlooker, home: Path, canaries: Canaries, tenant_id: str, tmp_path: Path
) -> None:
    await Life(runtime, canaries, tenant_id, tmp_path / "export").live()
    with onlooker.connected_as(MAINTENANCE_ROLE) as connection:
        # A busy disk may take longer than an operation may.
        connection.execute("SET statement_timeout = 0")
        connection.execute("CHECKPOINT")
    words = {word: _spellings(word) for word in canaries.all()}
    seen: set[str] = set()
    control = tenant_id.encode()
    found_control = 0
    for path in _files(home):
        content = path.read_bytes()
        found_control += control in content
        seen |= {f"{word} in {path}" for word, spellings in words.items() if any(s in content for s in spellings)}
    # What may stand there is found, so what is not found is not there.
    assert found_control > 2
    assert seen == set()


def _spellings(word: str) -> tuple[bytes, ...]:
    plain = word.encode()
    # Three alignments of base64, without the ends that depend on the neighbours.
    encoded = tuple(base64.b64encode(b"\0" * lead + plain)[4:-4] for lead in range(3))
    return (plain, plain.hex().encode(), plain[::-1], word.encode("utf-16-le"), *encoded)


def _files(directory: Path) -> Iterator[Path]:
    # A server that runs makes and removes files meanwhile.
    return (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        # As a traceback shows them.
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
