"""What has expired neither lends to its neighbours nor counts in statistics: both providers rank as if it never was."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from cloud import CloudRuntime, request_context
from src.memory.protocols import MemoryProvider
from src.memory.providers.local import LocalMemoryProvider
from src.memory.schemas import Memory
from src.testing.samples import new_user, sample_memory

START = datetime(2024, 5, 1, tzinfo=UTC)
SAID = (
    ("Ada: the harbour opens at six", False),
    ("Ada: harbour tickets are at the kiosk", True),
    ("Bert: fine by me", False),
    ("Ada: bring a coat", False),
    ("Bert: the harbour is far", False),
)


async def test_expired_memories_leave_no_trace_in_the_ranking(runtime: CloudRuntime, tenant_id: str) -> None:
    user = new_user()
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    lasting = [
        sample_memory(user, content=text, created_at=START + timedelta(seconds=at), metadata={"session": 1})
        for at, (text, _) in enumerate(SAID)
    ]
    passing = [
        memory.model_copy(update={"expires_at": soon if expires else None})
        for memory, (_, expires) in zip(lasting, SAID, strict=True)
    ]
    never_more = [memory for memory, (_, expires) in zip(lasting, SAID, strict=True) if not expires]
    local, fresh = LocalMemoryProvider(), LocalMemoryProvider()
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store_many(passing, {})
        before = await asked(runtime.memory, user)
        await local.store_many(passing, {})
        assert await asked(local, user) == before
        await fresh.store_many(never_more, {})
        await asyncio.sleep((soon - datetime.now(UTC)).total_seconds() + 0.1)
        expected = await asked(fresh, user)
        assert await asked(local, user) == expected
        assert await asked(runtime.memory, user) == expected
        runtime.pixeltable_config.hot.clear()
        assert await asked(runtime.memory, user) == expected
        everything = {"query": "harbour tickets", "include_invalid": True}
        of_cloud, of_local = [await provider.search(user, everything) for provider in (runtime.memory, local)]
        assert contents(of_cloud) == contents(of_local) == before[0]


async def asked(provider: MemoryProvider, user: str) -> list[list[str]]:
    """What comes back, by retrieving and by searching."""
    return [
        contents(await provider.retrieve("harbour tickets", user)),
        contents(await provider.search(user, {"query": "harbour tickets", "metadata.session": 1})),
    ]


def contents(found: list[Memory]) -> list[str]:
    return [memory.content for memory in found]
