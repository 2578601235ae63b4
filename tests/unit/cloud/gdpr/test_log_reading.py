"""A log is read in slices, and the slices make it up: nothing is left out and nothing comes twice."""

from __future__ import annotations

from datetime import datetime

import pytest
import sqlalchemy as sa

from cloud import request_context
from cloud.gdpr.log_reading import events_of
from src.testing.samples import sample_memory
from tests.unit.cloud.gdpr.conftest import Looker


@pytest.mark.parametrize("slice_events", [1, 2, 3, 7, 8, 9, 1_000])
async def test_slices_make_up_the_log(look: Looker, slice_events: int) -> None:
    with request_context(tenant_id=look.tenant_id, roles={"service"}):
        for number in range(7):
            await look.runtime.memory.store(sample_memory("alice" if number % 3 else "bob"), {})
    engine = look.runtime._installation.engines.maintenance
    logged = look.events()

    def read(wanted: object, **more: object) -> list[str]:
        found = events_of(engine, look.tenant_id, wanted, slice_events=slice_events, **more)  # type: ignore[arg-type]
        return [str(event["event_id"]) for event in found]

    assert read(lambda _: sa.true()) == [event["event_id"] for event in logged]
    assert read(lambda _: sa.false()) == []
    alice = look.subject("alice")
    of_alice = [event["event_id"] for event in logged if event["subject_id"] == alice]
    assert len(of_alice) == 4
    assert read(lambda event: event["subject_id"].as_string() == alice) == of_alice
    since = logged[3]["occurred_at"]
    later = [event["event_id"] for event in logged if event["occurred_at"] >= since]
    assert read(lambda _: sa.true(), since=datetime.fromisoformat(since)) == later
