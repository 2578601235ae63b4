"""Laws of plan files: what is written holds from the next opening on, for those who have the plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud import CloudRuntime, request_context
from cloud.kernel.errors import ConfigurationError, QuotaExceededError
from cloud.usage.plans import read_plans, write_plans
from src.testing.samples import sample_memory


@pytest.mark.parametrize("content", [None, b"\xff\xfe[free]"])
def test_a_plan_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "plans.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"plans\.toml"):
        read_plans(path)


async def test_the_limits_in_force_are_those_of_the_file_that_was_opened_last(
    runtime: CloudRuntime, tenant_id: str, tmp_path: Path
) -> None:
    engine = runtime._installation.engines.maintenance
    shipped = read_plans(None)
    path = tmp_path / "plans.toml"
    path.write_text("[team]\nmemories = 2\n[trial]\nmemories = 1\n")
    try:
        write_plans(engine, read_plans(path))
        with request_context(tenant_id=tenant_id, roles={"service"}):
            await runtime.memory.store_many([sample_memory("alice"), sample_memory("alice")], {})
            with pytest.raises(QuotaExceededError) as full:
                await runtime.memory.store(sample_memory("alice"), {})
        assert (full.value.limit, full.value.used) == (2, 2)
        unnamed = runtime.tenants.create(f"{tenant_id}-free", plan="free").tenant_id
        assert runtime.usage.get_usage_summary(unnamed)["quota_remaining"] == 1_000, (
            "a plan that is gone lost its tenants"
        )
    finally:
        write_plans(engine, shipped)
    with request_context(tenant_id=tenant_id, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {})
    assert runtime.usage.get_usage_summary(tenant_id)["memories"] == {"used": 3, "limit": 100_000}
