"""This project's provider: quota, audit, sealing and sequencing on, the worker a child process, as shipped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import psycopg

from cloud import CloudRuntime, CloudSettings, init_cloud_extensions, request_context
from cloud.storage.roles import BACKUP_ROLE, CONTROL_DATABASE, DATA_DATABASE, MAINTENANCE_ROLE
from src.memory.schemas import Memory, MemoryType
from tests.bench.contender import LIMIT, MIN_CONFIDENCE, OPERATIONS, SEARCH_LIMIT, Place
from tests.bench.data import Item
from tests.bench.processes import directory_bytes

TENANT = "bench"
FILTER = {"memory_type": "fact", "min_confidence": MIN_CONFIDENCE}
_AT_ONCE = 1_000
_SEQUENCED_S = 600.0
_POLL_S = 0.02
_POSTGRES = "postgres"


def memory(person: str, item: Item) -> Memory:
    """The item as this project has it."""
    return Memory(
        user_id=person,
        content=item.text,
        memory_type=MemoryType(item.kind),
        source="conversation",
        confidence=item.confidence,
        metadata={"project": item.project},
    )


class Ours:
    """`CloudMemoryProvider` on the embedded PostgreSQL, called by tasks of one event loop."""

    title: ClassVar[str] = "luminescent-cloud"
    persistent: ClassVar[bool] = True
    callers: ClassVar[Literal["tasks", "threads"]] = "tasks"
    operations: ClassVar[frozenset[str]] = frozenset(OPERATIONS)
    failures: ClassVar[tuple[type[Exception], ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ("luminescent-cloud", "pixeltable", "sqlalchemy", "psycopg", "wordllama")

    runtime: CloudRuntime
    _place: Place

    def set_up(self, place: Place) -> None:
        self._place = place
        self.runtime = init_cloud_extensions(CloudSettings(home=place.home))
        url = self.runtime._installation.server.url(BACKUP_ROLE, CONTROL_DATABASE).set(drivername="postgresql")
        self._audit = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
        if not place.tenant_each:
            self.runtime.tenants.create(TENANT, plan="enterprise")

    async def load(self, people: Mapping[str, Sequence[Item]]) -> None:
        for person, items in people.items():
            tenant_id = self._tenant(person)
            if self._place.tenant_each:
                self.runtime.tenants.create(tenant_id, plan="enterprise")
            with request_context(tenant_id=tenant_id, roles={"service"}):
                for start in range(0, len(items), _AT_ONCE):
                    batch = [memory(person, item) for item in items[start : start + _AT_ONCE]]
                    await self.runtime.memory.store_many(batch, {})

    async def settle(self) -> None:
        """In Pixeltable, and in the audit log's trees too: those of reads as well."""
        await self.runtime.drain(timeout_s=1_800)
        until = time.perf_counter() + _SEQUENCED_S
        while self._audit.execute("SELECT 1 FROM audit_pending LIMIT 1").fetchone():
            if time.perf_counter() > until:
                raise TimeoutError("audit events without a leaf")
            await asyncio.sleep(_POLL_S)

    async def store(self, person: str, item: Item) -> str:
        with request_context(tenant_id=self._tenant(person), roles={"service"}):
            return await self.runtime.memory.store(memory(person, item), {})

    async def retrieve(self, person: str, query: str) -> int:
        with request_context(tenant_id=self._tenant(person), roles={"service"}):
            return len(await self.runtime.memory.retrieve(query, person, limit=LIMIT))

    def cool(self) -> None:
        self.runtime.pixeltable_config.hot.clear()

    async def search(self, person: str) -> int:
        with request_context(tenant_id=self._tenant(person), roles={"service"}):
            return len(await self.runtime.memory.search(person, FILTER, limit=SEARCH_LIMIT))

    async def search_text(self, person: str, query: str) -> int:
        with request_context(tenant_id=self._tenant(person), roles={"service"}):
            return len(await self.runtime.memory.search(person, FILTER | {"query": query}, limit=SEARCH_LIMIT))

    async def delete(self, person: str, memory_id: str) -> None:
        with request_context(tenant_id=self._tenant(person), roles={"service"}):
            if not await self.runtime.memory.delete(memory_id):
                raise RuntimeError("nothing was deleted")

    def disk_bytes(self) -> int:
        """Both databases, keyring, heads of the audit log, Pixeltable's directory; logs and sockets are not data."""
        server = self.runtime._installation.server
        total = 0
        for database in (CONTROL_DATABASE, DATA_DATABASE):
            url = server.url(MAINTENANCE_ROLE, database).set(drivername="postgresql")
            with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
                row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
                assert row is not None
                total += int(row[0])
        kept = [path for path in self._place.home.iterdir() if path.is_dir() and path.name != _POSTGRES]
        return total + sum(directory_bytes(path) for path in kept)

    def helpers(self) -> Sequence[int]:
        pid = self.runtime.worker_pid
        return [] if pid is None else [pid]

    def close(self) -> None:
        self._audit.close()
        self.runtime.close()

    def _tenant(self, person: str) -> str:
        return f"bench-{person}" if self._place.tenant_each else TENANT
