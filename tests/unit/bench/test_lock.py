"""The lock of the benchmarks' environment."""

from __future__ import annotations

import re

from tests.support.nursery import ROOT

_PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def _pins(name: str) -> set[tuple[str, str]]:
    return set(_PIN.findall((ROOT / name).read_text()))


def test_what_is_measured_is_what_is_shipped() -> None:
    """The same versions as everywhere, so that the peers' requirements do not change ours."""
    shipped = _pins("requirements.lock")
    assert len(shipped) > 50
    assert shipped <= _pins("requirements-bench.lock")


def test_every_peer_is_in_the_lock_and_no_deep_learning_framework() -> None:
    names = {name for name, _ in _pins("requirements-bench.lock")}
    assert {"langgraph", "langgraph-checkpoint-postgres", "mem0ai", "qdrant-client", "matplotlib"} <= names
    assert not {"torch", "tensorflow", "jax"} & names


def test_the_lock_holds_names_versions_and_hashes_alone() -> None:
    lines = (ROOT / "requirements-bench.lock").read_text().splitlines()
    other = [line for line in lines if not _PIN.match(line) and not line.startswith("    --hash=sha256:")]
    assert other == []
