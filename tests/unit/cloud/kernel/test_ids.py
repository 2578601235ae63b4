"""Laws of identifiers: ordered where they are stored, silent where they stand for people."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud.kernel.ids import (
    SYSTEM_LOG,
    is_tenant_id,
    new_event_id,
    new_memory_id,
    new_request_id,
    new_subject_id,
    parse_memory_id,
)


def test_ids_of_one_process_are_distinct_and_in_order() -> None:
    ids = [new_memory_id() for _ in range(20_000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_threads_never_share_an_id() -> None:
    with ThreadPoolExecutor(8) as threads:
        batches = list(threads.map(lambda _: [new_event_id() for _ in range(2_000)], range(8)))
    assert len({one for batch in batches for one in batch}) == 16_000
    for batch in batches:
        assert batch == sorted(batch)


def test_a_memory_id_is_a_uuid_of_version_7_that_begins_with_the_present_in_milliseconds() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = uuid.UUID(new_memory_id())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    # The source may run ahead by the milliseconds whose counters are used up, which takes 3,072 ids each.
    assert before_ms <= made.int >> 80 <= time.time_ns() // 1_000_000 + 1_000


def test_a_subject_id_tells_no_time() -> None:
    assert {uuid.UUID(new_subject_id()).version for _ in range(100)} == {4}


@pytest.mark.parametrize("new", [new_memory_id, new_event_id, new_request_id, new_subject_id])
def test_an_id_parses_to_itself(new: object) -> None:
    assert callable(new)
    made = new()
    assert parse_memory_id(made) == made


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        b"018f2b6e-7c1a-7def-8123-456789abcdef",
        "",
        "nonsense",
        "018F2B6E-7C1A-7DEF-8123-456789ABCDEF",
        "{018f2b6e-7c1a-7def-8123-456789abcdef}",
        "urn:uuid:018f2b6e-7c1a-7def-8123-456789abcdef",
        "018f2b6e7c1a7def8123456789abcdef",
        "018f2b6e-7c1a-7def-8123-456789abcdeg",
        " 18f2b6e-7c1a-7def-8123-456789abcdef",
        "018f2b6e-7c1a-7def-8123-456789abcde\n",
        "018f2b6e-7c1a-7def-8123-456789abcde٣",
        "\0" * 36,
        "x" * 100_000,
    ],
)
def test_what_no_memory_can_have_parses_to_none(text: object) -> None:
    assert parse_memory_id(text) is None


@pytest.mark.parametrize("tenant_id", ["a", "7", "acme", "acme-2", "a_b", "a" * 63, "0-0", "operator"])
def test_a_plain_name_can_be_a_tenant(tenant_id: str) -> None:
    assert is_tenant_id(tenant_id)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        b"acme",
        "",
        " ",
        "_system",
        "-acme",
        "acme-",
        "acme_",
        "Acme",
        "ac me",
        "acme\n",
        "acme\0",
        "acme/../x",
        "acme%",
        "*",
        "é",
        "аcme",  # its first letter is Cyrillic
        "a" * 64,
    ],
)
def test_anything_else_cannot(value: object) -> None:
    assert not is_tenant_id(value)


def test_no_tenant_can_take_the_name_of_the_system_log() -> None:
    assert not is_tenant_id(SYSTEM_LOG)
