"""An erasure leaves nothing in any file: what was found everywhere before it is found nowhere after it.

A scan that finds nothing beforehand would prove nothing, so each fingerprint has to be found in the heap, in the
write-ahead log and in the keyring before. Sizes: `RESIDUE_MEMORIES` of one person among `RESIDUE_OTHERS` of another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.support.homes import temporary_home
from tests.support.nursery import ROOT

MINE = int(os.environ.get("RESIDUE_MEMORIES", "60"))
OTHERS = int(os.environ.get("RESIDUE_OTHERS", "200"))
KEPT = {"audit_events", "subjects", "erasures", "erasure-ledger/erasures.ndjson"}
"""Where ids stay that point to nobody: of the ledger, so that no restored backup brings the person back."""


@pytest.fixture(scope="module", params=["sealed", "plain"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the child saw; with `plain`, of an installation whose sealer does not encrypt."""
    files = tmp_path_factory.mktemp("files")
    with temporary_home() as home:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.gdpr.residue_program",
                "all",
                home,
                files,
                str(MINE),
                str(OTHERS),
                request.param,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            timeout=1800,
        )
    return {**json.loads(done.stdout), "sealer": request.param}


def items(story: dict[str, Any], *traces: str) -> set[tuple[str, int]]:
    return {(trace, item) for trace, item in story["items"] if trace in traces}


def found(story: dict[str, Any], when: str, *places: str) -> set[tuple[str, int]]:
    return {(trace, item) for place in places for trace, item in story[when]["found"].get(place, ())}


def test_each_fingerprint_is_found_in_heap_and_log_and_keyring_before(story: dict[str, Any]) -> None:
    assert story["before"]["unreachable"] == []
    rows = items(story, "envelope", "vector", "memory_id", "subject_id")
    assert len(items(story, "envelope")) > 2 * MINE
    assert len(items(story, "memory_id")) > MINE
    replaced = items(story, "envelope", "vector") - {(trace, item) for trace, item in story["current"]}
    # What an update has replaced may have been pruned from its page; it is in the log.
    assert rows - replaced - found(story, "before", "heap", "toast") == set()
    assert rows - found(story, "before", "wal") == set()
    assert items(story, "wrapped_key", "link", "subject_id") - found(story, "before", "keyring") == set()
    assert {"memory_id", "subject_id"} == {trace for trace, _ in found(story, "before", "index")}
    assert {trace for trace, _ in found(story, "before", "toast")} >= {"envelope"}


def test_plaintext_is_found_before_only_where_nothing_encrypts(story: dict[str, Any]) -> None:
    texts = items(story, "plaintext")
    assert len(texts) > MINE
    places = ("heap", "toast", "wal", "index", "statistics", "keyring", "postgres", "imports", "pixeltable")
    if story["sealer"] == "sealed":
        assert found(story, "before", *places) & texts == set()
    else:
        current = texts & {(trace, item) for trace, item in story["current"]}
        assert len(current) > MINE
        # PostgreSQL cuts a long value in chunks, which may cut each piece of a text.
        assert len(current - found(story, "before", "heap", "toast")) <= len(current) // 200
        assert texts - found(story, "before", "wal") == set()


@pytest.mark.parametrize("when", ["after", "late"])
def test_nothing_is_found_after(story: dict[str, Any], when: str) -> None:
    assert story["state"] == "certified"
    assert story[when]["unreachable"] == []
    assert story[when]["residue"] == []
    assert {what for what in story[when]["kept"] if not what.startswith("0000")} <= KEPT
    left = {trace for place in story[when]["found"] for trace, _ in story[when]["found"][place]}
    assert left <= {"memory_id", "subject_id"}


def test_every_level_is_measured_as_reached(story: dict[str, Any]) -> None:
    assert {level: reached for level, (reached, _) in story["levels"].items()} == {
        "store": True,
        "file": True,
        "wal": True,
    }
    assert story["levels"]["file"][1]["longest_wait_ms"] <= 1_000


def test_others_are_whole_and_the_same_person_is_somebody_new(story: dict[str, Any]) -> None:
    assert story["others_are_whole"]
    assert story["found_of_the_erased"] == 0
    assert story["found_of_the_new"] == 1
    assert story["is_another_subject"]
