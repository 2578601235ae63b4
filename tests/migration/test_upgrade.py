"""A home that an earlier version made is opened by this one, and nothing that was in it is lost or changed.

The earlier versions are real: each is taken from the history, makes a home in a process of its own, and ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.migration.previous import Version, versions_before_a_change_of_schema
from tests.support.homes import temporary_home
from tests.support.nursery import ROOT
from tests.support.typed import environment

VERSIONS = versions_before_a_change_of_schema()
# A child starts where no other packages of these names are, and names the version it runs.
COMMON = """
import asyncio, json, sys
from pathlib import Path
import sqlalchemy as sa
import cloud
from cloud import CloudSettings, init_cloud_extensions, request_context
from src.memory.schemas import Memory
home, facts = Path(sys.argv[1]), {"code": cloud.__file__}

def memory(user, content):
    return Memory(user_id=user, content=content, memory_type="fact", source="notes", metadata={"topic": content[:3]})

def read(user):
    with request_context(tenant_id="acme", roles={"service"}):
        return sorted((m.id, m.content, m.metadata) for m in asyncio.run(runtime.memory.search(user, {}, limit=100)))

def revision():
    return runtime._installation.engines.app.rows(sa.text("SELECT version_num FROM alembic_version"))[0][0]

def events(log, name):
    lines = runtime.audit.export(log, home.parent / f"{home.name}-{name}-{log}").read_text().splitlines()
    return [json.loads(line) for line in lines]

settings = CloudSettings(home=home, embedder="hashing", worker="off")
"""
BEFORE = (
    COMMON
    + """
with init_cloud_extensions(settings) as runtime:
    runtime.tenants.create("acme", plan="team", limits={"memories": 50})
    runtime.tenants.create("paused")
    runtime.tenants.suspend("paused")
    facts["keys"] = {
        role: runtime.api_keys.create("acme", roles=[role], user_id=user)
        for role, user in (("service", None), ("member", "alice"), ("tenant_admin", None))
    }
    with request_context(tenant_id="acme", roles={"service", "tenant_admin"}):
        for number in range(8):
            asyncio.run(runtime.memory.store(memory("alice", f"{number}: alice prefers tea"), {}))
        asyncio.run(runtime.memory.store(memory("bob", "0: bob keeps the keys"), {}))
        asyncio.run(runtime.memory.store(memory("carol", "0: carol's will be erased"), {}))
        deleted = asyncio.run(runtime.memory.store(memory("alice", "8: alice deletes this"), {}))
        assert asyncio.run(runtime.memory.delete(deleted))
        facts["repeated"] = asyncio.run(
            runtime.memory.store(memory("bob", "1: bob once"), {"idempotency_key": "order-17"})
        )
        runtime._installation.materializer().round()
        asyncio.run(runtime.gdpr.delete_user_data("carol", "acme", confirmed=True, reason="request 17"))
        # Accepted, and left for the next version to materialize.
        for number in range(2, 5):
            asyncio.run(runtime.memory.store(memory("bob", f"{number}: bob waits"), {}))
    facts["revision"] = revision()
    facts["memories"] = {user: read(user) for user in ("alice", "bob", "carol")}
    facts["events"] = {log: events(log, "before") for log in ("acme", "_system")}
print(json.dumps(facts))
"""
)
AFTER = (
    COMMON
    + """
from cloud.startup import upkeep
known = json.loads(sys.stdin.read())
with init_cloud_extensions(settings.model_copy(update={"worker": "thread"})) as runtime:
    facts["revision"] = revision()
    # Before anything is read: what is in the log now is what was in it then.
    facts["events"] = {log: events(log, "after") for log in ("acme", "_system")}
    facts["cold"] = {user: read(user) for user in ("alice", "bob", "carol")}
    asyncio.run(runtime.drain())
    facts["materialized"] = {user: read(user) for user in ("alice", "bob", "carol")}
    facts["used"] = runtime.usage.get_usage_summary("acme")["memories"]
    facts["states"] = {t.tenant_id: [t.state.value, t.plan, t.limits] for t in runtime.tenants.list()}
    with request_context(tenant_id="acme", roles={"service"}):
        again = {"idempotency_key": "order-17"}
        facts["repeated"] = asyncio.run(runtime.memory.store(memory("bob", "1: bob once"), again))
    with request_context(authorization="Bearer " + known["keys"]["member"]):
        facts["by_key"] = len(asyncio.run(runtime.memory.search("alice", {}, limit=100)))
        stored = asyncio.run(runtime.memory.store(memory("alice", "9: alice goes on"), {}))
        facts["found"] = [m.id for m in asyncio.run(runtime.memory.retrieve("alice goes on", "alice", limit=1))]
        facts["stored"] = stored
    with request_context(authorization="Bearer " + known["keys"]["tenant_admin"]):
        asyncio.run(runtime.gdpr.delete_user_data("bob", "acme", confirmed=True, reason="request 18"))
    facts["bob"] = read("bob")
    asyncio.run(runtime.drain())
facts["doctor"] = [[f.check, f.what] for f in upkeep.doctor(settings) if f.level.value not in ("ok",)]
print(json.dumps(facts))
"""
)


def run(script: str, home: Path, packages: Path, said: str = "") -> dict[str, Any]:
    """What a child says that runs `script` with the packages in a directory."""
    child = subprocess.run(
        [sys.executable, "-c", script, str(home)],
        cwd=packages,
        env=environment() | {"PYTHONPATH": str(packages)},
        input=said,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-4_000:]
    facts = json.loads(child.stdout.splitlines()[-1])
    assert Path(facts["code"]).is_relative_to(packages), "another version ran"
    assert isinstance(facts, dict)
    return facts


NO_HISTORY = pytest.param(
    None, id="none", marks=pytest.mark.skip("no earlier version: a source distribution, or a clone without history")
)


@pytest.fixture(scope="module", params=VERSIONS or [NO_HISTORY], ids=str)
def upgraded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What the earlier version said of its home, and what this one says of it."""
    version: Version = request.param
    packages = tmp_path_factory.mktemp("earlier")
    version.unpack(packages)
    with temporary_home() as directory:
        home = directory / "home"
        before = run(BEFORE, home, packages) | {"wanted": version.head}
        yield before, run(AFTER, home, ROOT, json.dumps(before))


Upgraded = tuple[dict[str, Any], dict[str, Any]]


def test_the_schema_was_an_earlier_one_and_is_this_ones(upgraded: Upgraded) -> None:
    before, after = upgraded
    assert before["revision"] == before["wanted"] < after["revision"]


def test_every_memory_is_there_as_it_was(upgraded: Upgraded) -> None:
    before, after = upgraded
    assert [len(before["memories"][user]) for user in ("alice", "bob", "carol")] == [8, 5, 0]
    assert after["cold"] == before["memories"]
    assert after["materialized"] == before["memories"], "what waited in intake"


def test_every_event_is_there_as_it_was(upgraded: Upgraded) -> None:
    before, after = upgraded
    for log in ("acme", "_system"):
        assert after["events"][log][: len(before["events"][log])] == before["events"][log]
    assert len(before["events"]["acme"]) > 15


def test_the_upgrade_is_recorded_once_before_all_else_with_both_revisions(upgraded: Upgraded) -> None:
    before, after = upgraded
    added = after["events"]["_system"][len(before["events"]["_system"]) :]
    upgrades = [event for event in added if event["action"] == "db.upgrade"]
    # Reading the log, for what was in it before, is in it too.
    assert [event for event in added if event["action"] != "audit.system"][:1] == upgrades
    assert [(event["outcome"], event["details"]) for event in upgrades] == [
        ("allowed", {"from": before["revision"], "to": after["revision"]})
    ]
    assert upgrades[0]["actor"]["kind"] == "local-operator"


def test_tenants_keep_state_plan_limits_and_stock(upgraded: Upgraded) -> None:
    _, after = upgraded
    assert after["states"]["acme"] == ["active", "team", {"memories": 50}]
    assert after["states"]["paused"][0] == "suspended"
    assert (after["used"]["used"], after["used"]["limit"]) == (13, 50)


def test_keys_still_open(upgraded: Upgraded) -> None:
    _, after = upgraded
    assert after["by_key"] == 8


def test_an_idempotency_key_still_stands_for_its_memory(upgraded: Upgraded) -> None:
    before, after = upgraded
    assert after["repeated"] == before["repeated"]


def test_people_go_on_and_can_be_erased(upgraded: Upgraded) -> None:
    _, after = upgraded
    assert after["found"] == [after["stored"]]
    assert after["bob"] == []


def test_the_doctor_finds_nothing_wrong(upgraded: Upgraded) -> None:
    _, after = upgraded
    # Nobody has backed these up, as nobody could before.
    assert [found for found in after["doctor"] if found[0] != "backups"] == []
