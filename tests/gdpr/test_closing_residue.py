"""A closed tenant leaves nothing in any file: of each of its people what was found before is found nowhere after."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.homes import temporary_home
from tests.support.nursery import ROOT

COUNT = 24
KEPT = {"audit_events", "erasures"}
"""Where ids stay that point to nobody."""


@pytest.fixture(scope="module", params=["sealed", "plain"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the child saw; with `plain`, of an installation whose sealer does not encrypt."""
    files = tmp_path_factory.mktemp("files")
    with temporary_home() as home:
        arguments = [sys.executable, "-m", "tests.gdpr.closing_program", home, files, str(COUNT), request.param]
        done = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=900)
    return {**json.loads(done.stdout), "sealer": request.param}


def found(report: dict[str, Any], *places: str) -> set[tuple[str, int]]:
    return {(trace, item) for place in places for trace, item in report["found"].get(place, ())}


def test_each_person_is_found_in_heap_and_log_and_keyring_before(story: dict[str, Any]) -> None:
    assert len(story["items"]) == 4
    for name, listed in story["items"].items():
        items, report = {(trace, item) for trace, item in listed}, story["before"][name]
        rows = {one for one in items if one[0] in ("envelope", "vector", "memory_id", "subject_id")}
        assert len([one for one in rows if one[0] == "memory_id"]) >= COUNT // 2
        assert rows - found(report, "heap", "toast") == set()
        assert rows - found(report, "wal") == set()
        assert {one for one in items if one[0] in ("wrapped_key", "link")} - found(report, "keyring") == set()
        texts = {one for one in items if one[0] == "plaintext"}
        assert texts
        assert bool(texts & found(report, "heap", "toast")) == (story["sealer"] == "plain")


def test_nobody_is_found_after(story: dict[str, Any]) -> None:
    for report in story["after"].values():
        assert report["unreachable"] == []
        assert report["residue"] == []
        assert {what for what in report["kept"] if not what.startswith("0000")} <= KEPT
        assert {trace for place in report["found"].values() for trace, _ in place} <= {"memory_id", "subject_id"}


def test_every_level_is_reached_also_in_a_table_of_its_own(story: dict[str, Any]) -> None:
    reached = dict.fromkeys(("logical", "cryptographic", "store", "file", "wal"), True)
    for tenant_id in ("own", "pooled"):
        assert reached.items() <= story["levels"][tenant_id].items()


def test_who_stays_is_whole(story: dict[str, Any]) -> None:
    assert story["others_are_whole"]
