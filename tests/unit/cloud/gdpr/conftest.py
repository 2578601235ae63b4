"""What the tests of erasure and export look with: around the service, into every place itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from cloud import CloudRuntime, request_context
from cloud.kernel import failpoints
from cloud.storage.metadata import api_keys, erasures, idempotency_keys, intake, memories, subjects
from cloud.tenancy.model import pooled_placement
from cloud.tenancy.system import system_predicate
from src.memory.schemas import Memory


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at one tenant of the installation from outside the features under test."""

    runtime: CloudRuntime
    tenant_id: str

    def subject(self, user_id: str) -> str | None:
        """The person's subject id now."""
        keyring = self.runtime.pixeltable_config.keyring
        person = keyring.resolve_subject(self.tenant_id, user_id, create=False)
        return person.subject_id if person else None

    def remains(self, subject_id: str) -> dict[str, int]:
        """What is left of a subject, place by place; empty if nothing is."""
        config, engine = self.runtime.pixeltable_config, self.runtime._installation.engines.maintenance
        found = {
            table.name: len(engine.rows(sa.select(table).where(table.c.subject_id == subject_id)))
            for table in (memories, intake, api_keys)
        }
        found["idempotency_keys"] = len(
            engine.rows(
                sa.select(idempotency_keys).where(
                    sa.literal(subject_id, sa.Uuid(as_uuid=False)) == sa.any_(idempotency_keys.c.subject_ids)
                )
            )
        )
        found["pixeltable"] = config.rows.count_subject(
            system_predicate(self.tenant_id, "test"), pooled_placement(self.tenant_id), subject_id
        )
        found["key"] = int(config.keyring.subject_key(self.tenant_id, subject_id) is not None)
        found["link"] = int(subject_id in config.keyring.subjects(self.tenant_id))
        found["hot"] = int(config.hot.get(self.tenant_id, subject_id) is not None)
        return {place: count for place, count in found.items() if count}

    def state(self, subject_id: str) -> str:
        """What the control plane says of the subject."""
        engine = self.runtime._installation.engines.maintenance
        ((state,),) = engine.rows(sa.select(subjects.c.state).where(subjects.c.subject_id == subject_id))
        return str(state)

    def erasures(self) -> Sequence[Any]:
        """The tenant's erasures."""
        engine = self.runtime._installation.engines.maintenance
        return engine.rows(sa.select(erasures).where(erasures.c.tenant_id == self.tenant_id))

    def used(self) -> int:
        """Memories in stock, as the counter has it."""
        summary: Any = self.runtime.usage.get_usage_summary(self.tenant_id)
        return int(summary["memories"]["used"])

    def events(self) -> list[dict[str, Any]]:
        """The tenant's log, read without leaving an event."""
        return list(self.runtime.audit._store.events(self.tenant_id, since=None, until=None))

    async def store(self, *stored: Memory, **context: object) -> list[str]:
        """Store memories as the tenant's service."""
        with request_context(tenant_id=self.tenant_id, roles={"service"}):
            return await self.runtime.memory.store_many(list(stored), context)

    async def read(self, user_id: str, ids: list[str]) -> list[Memory]:
        """Everything that any way of reading still finds of a person."""
        memory = self.runtime.memory
        with request_context(tenant_id=self.tenant_id, roles={"service"}):
            found = await memory.retrieve("tabs spaces", user_id, 1_000)
            found += await memory.search(user_id, {}, 1_000)
            found += await memory.search(user_id, {"include_invalid": True}, 1_000)
            found += await memory.search(user_id, {"query": "tabs"}, 1_000)
            found += [one for memory_id in ids if (one := await memory.get_by_id(memory_id)) is not None]
        return found


@pytest.fixture
def look(runtime: CloudRuntime, tenant_id: str) -> Iterator[Looker]:
    """A new tenant, with what to look at it with; no failpoint stays armed."""
    yield Looker(runtime, tenant_id)
    failpoints.disarm_all()
