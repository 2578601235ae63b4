"""Laws of start-up: all or nothing, nothing of others touched, nothing listening, and no key made beside a lost one.

Pixeltable has one home per process, so each scenario is a process of its own; it reports facts, the tests judge them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cloud
from tests.support.homes import postmaster_pid, process_exists, temporary_home
from tests.support.typed import environment

ROOT = Path(cloud.__file__).parents[1]
EXTENSIONS = ("audit_logger", "gdpr_service", "memory_provider", "tenant_provider", "usage_tracker")

COMMON = """
import asyncio, base64, json, os, shutil, sys
from pathlib import Path
from cloud import CloudSettings, init_cloud_extensions, request_context
from cloud.kernel.errors import ConfigurationError
from src.extensions import ExtensionRegistry
from src.testing.samples import sample_memory
home, facts = Path(sys.argv[1]), {}

def settings(**fields):
    return CloudSettings(home=home, embedder="hashing", **({"worker": "off"} | fields))

def refusal(call):
    try:
        call().close()
    except ConfigurationError as error:
        return str(error)
    return None
"""

WHOLE = (
    COMMON
    + """
from luminescent_cluster.extensions import ExtensionRegistry as Published

NAMES = ("audit_logger", "gdpr_service", "memory_provider", "tenant_provider", "usage_tracker")

def registered(registry):
    return {name: type(getattr(registry, name, None)).__name__ for name in NAMES if hasattr(registry, name)}

def listening(pid):
    own = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            own.add(os.readlink(f"/proc/{pid}/fd/{entry}").removeprefix("socket:[").removesuffix("]"))
        except OSError:
            pass
    found = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if (fields[3] == "0A" or table.startswith("udp")) and fields[9] in own:
                found.append(f"{table} {fields[1]}")
    return found

async def use(runtime, tenant):
    runtime.tenants.create(tenant)
    with request_context(tenant_id=tenant, roles={"service"}):
        await runtime.memory.store(sample_memory("alice"), {})
        found = await runtime.memory.retrieve("tabs", "alice")
    await runtime.drain()
    return len(found)

facts["before"] = ExtensionRegistry.get().get_status()
first = init_cloud_extensions(settings(worker="process"))
facts["status"] = ExtensionRegistry.get().get_status()
facts["registered"] = registered(ExtensionRegistry.get())
facts["published"] = registered(Published.get())
facts["same"] = all(
    getattr(Published.get(), name) is getattr(ExtensionRegistry.get(), name)
    for name in NAMES if hasattr(Published.get(), name)
)
facts["used"] = asyncio.run(use(first, "acme"))
facts["pids"] = [os.getpid(), first.worker_pid, first.server_pid]
facts["listening"] = [listening(pid) for pid in facts["pids"]]

second = init_cloud_extensions(settings())
facts["second"] = asyncio.run(use(first, "globex"))
other = home.with_name(home.name + "-other")
try:
    facts["other_home"] = refusal(lambda: init_cloud_extensions(CloudSettings(home=other, worker="off")))
finally:
    facts["other_server"] = (other / "postgres/data/postmaster.pid").exists()
    shutil.rmtree(other, ignore_errors=True)
facts["after_other"] = ExtensionRegistry.get().memory_provider is second.memory
second.close()
facts["first_again"] = ExtensionRegistry.get().memory_provider is first.memory

foreign = object()
ExtensionRegistry.get().audit_logger = foreign
Published.get().usage_tracker = foreign
first.close()
first.close()
facts["kept"] = [ExtensionRegistry.get().audit_logger is foreign, Published.get().usage_tracker is foreign]
ExtensionRegistry.get().audit_logger = None
facts["closed"] = ExtensionRegistry.get().get_status()
facts["left"] = registered(Published.get())

with init_cloud_extensions(settings()) as again:
    facts["reopened"] = [tenant.tenant_id for tenant in again.tenants.list()]

plans = home / "plans.toml"
plans.write_text("[free]\\nmemories = 7\\n")
with init_cloud_extensions(settings(plans_file=plans)) as again:
    facts["plan"] = again.usage.get_usage_summary("acme")["memories"]
plans.write_text("[free]\\nmemory = 7\\n")
facts["wrong_plans"] = refusal(lambda: init_cloud_extensions(settings(plans_file=plans)))
facts["status_at_last"] = ExtensionRegistry.get().get_status()

import sqlalchemy as sa
from cloud.startup.custody import open_custody
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.roles import CONTROL_DATABASE, OWNER_ROLE

def at_revision(revision):
    server = EmbeddedPostgres.open(home)
    engine = sa.create_engine(server.url(OWNER_ROLE, CONTROL_DATABASE), poolclass=sa.NullPool)
    with engine.begin() as connection:
        before = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": revision})
    server.close()
    return before

def custody():
    with open_custody(settings()):
        raise AssertionError("a newer database was opened")

known = at_revision("9999")
facts["newer"] = [refusal(lambda: init_cloud_extensions(settings())), refusal(custody)]
at_revision("0001")
plans.write_text("[free]\\nmemories = many\\n")
facts["wrong_plans_of_an_older"] = refusal(lambda: init_cloud_extensions(settings(plans_file=plans)))
facts["left_at"] = at_revision(known)
with init_cloud_extensions(settings()) as again:
    lines = again.audit.export("_system", home.with_name(home.name + "-system")).read_text().splitlines()
shutil.rmtree(home.with_name(home.name + "-system"))
facts["system"] = [json.loads(line) for line in lines]
print(json.dumps(facts))
"""
)

KEYS = (
    COMMON
    + """
with init_cloud_extensions(settings()) as runtime:
    runtime.tenants.create("acme")
    with request_context(tenant_id="acme", roles={"service"}):
        asyncio.run(runtime.memory.store(sample_memory("alice"), {}))
keyring, root = home / "keyring", home / "secrets/root.key"
key = root.read_text()
other = base64.b64encode(os.urandom(32)).decode()

def attempt(**fields):
    refused = refusal(lambda: init_cloud_extensions(settings(**fields)))
    return {"refused": refused, "keyring": keyring.exists(), "root": root.read_text() == key if root.exists() else None,
            "server": (home / "postgres/data/postmaster.pid").exists()}

keyring.rename(home / "aside")
facts["no_keyring"] = attempt()
root.rename(home / "secrets/aside")
facts["no_keyring_no_root"] = attempt()
keyring.mkdir(mode=0o700)
facts["empty_keyring"] = attempt(root_key=key)
keyring.rmdir()
(home / "aside").rename(keyring)
facts["no_root"] = attempt()
facts["other_root"] = attempt(root_key=other)
facts["no_key"] = attempt(root_key="not a key")
(home / "secrets/aside").rename(root)
root.chmod(0o644)
facts["open_root"] = attempt()
root.chmod(0o600)
with init_cloud_extensions(settings()) as runtime, request_context(tenant_id="acme", roles={"service"}):
    facts["whole_again"] = len(asyncio.run(runtime.memory.search("alice", {})))
facts["key"], facts["other"] = key.strip(), other
print(json.dumps(facts))
"""
)


def report(program: str, home: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", program, home],
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@pytest.fixture(scope="module")
def whole() -> Iterator[dict[str, Any]]:
    """What a process saw that opened, used and closed an installation."""
    with temporary_home(prepared=True) as home:
        yield report(WHOLE, home) | {"home": home}


@pytest.fixture(scope="module")
def keys() -> Iterator[dict[str, Any]]:
    """What a process saw whose keys were taken away from it."""
    with temporary_home(prepared=True) as home:
        yield report(KEYS, home)


# Registering


def test_all_five_extensions_are_registered_and_the_mode_is_cloud(whole: dict[str, Any]) -> None:
    assert whole["before"] == dict.fromkeys(EXTENSIONS, False) | {"mode": "oss"}
    assert whole["status"] == dict.fromkeys(EXTENSIONS, True) | {"mode": "cloud"}
    assert whole["registered"] == {
        "audit_logger": "CloudAuditLogger",
        "gdpr_service": "CloudGDPRService",
        "memory_provider": "CloudMemoryProvider",
        "tenant_provider": "CloudTenantProvider",
        "usage_tracker": "CloudUsageTracker",
    }


def test_the_same_objects_are_registered_in_the_published_package(whole: dict[str, Any]) -> None:
    assert whole["same"]
    assert whole["published"] == {name: whole["registered"][name] for name in whole["published"]}
    assert {"tenant_provider", "usage_tracker", "audit_logger"} <= whole["published"].keys()


def test_closing_unregisters_its_own_and_nothing_else(whole: dict[str, Any]) -> None:
    assert whole["kept"] == [True, True], "somebody else's extension was taken out"
    assert whole["closed"] == dict.fromkeys(EXTENSIONS, False) | {"mode": "oss"}
    left = {name for name, kind in whole["left"].items() if kind != "NoneType"}
    assert left == {"usage_tracker"}


def test_an_installation_that_cannot_be_opened_registers_nothing(whole: dict[str, Any]) -> None:
    assert "plans.toml" in whole["wrong_plans"]
    assert "memory" in whole["wrong_plans"]
    assert whole["status_at_last"] == dict.fromkeys(EXTENSIONS, False) | {"mode": "oss"}


def test_a_refused_start_leaves_one_event_with_its_reason_wherever_there_is_a_log(whole: dict[str, Any]) -> None:
    assert all("9999, which this version does not know" in refused for refused in whole["newer"])
    assert "plans.toml" in whole["wrong_plans_of_an_older"]
    starts = [event for event in whole["system"] if event["action"] == "service.start"]
    assert [(event["outcome"], event["reason"]) for event in starts] == [("failed", "configuration")] * 4
    assert {(event["category"], event["actor"]["kind"]) for event in starts} == {("administration", "local-operator")}
    assert str(whole["system"]).count("plans.toml") == 0, "the log has codes, not messages"


def test_a_start_that_is_refused_for_its_plans_upgrades_nothing(whole: dict[str, Any]) -> None:
    assert whole["left_at"] == "0001"


def test_neither_a_new_database_nor_one_that_is_current_counts_as_an_upgrade(whole: dict[str, Any]) -> None:
    assert "db.upgrade" not in {event["action"] for event in whole["system"]}


# Processes and sockets


def test_it_works_and_nothing_listens_on_the_network(whole: dict[str, Any]) -> None:
    assert (whole["used"], whole["second"]) == (1, 1)
    service, worker, server = whole["pids"]
    assert len({service, worker, server}) == 3
    assert whole["listening"] == [[], [], []]


def test_the_last_to_leave_stops_worker_and_server(whole: dict[str, Any]) -> None:
    assert postmaster_pid(whole["home"]) is None
    assert not [pid for pid in whole["pids"] if process_exists(pid)]


def test_starting_twice_works_and_closing_one_leaves_the_other(whole: dict[str, Any]) -> None:
    assert whole["first_again"]
    assert whole["reopened"] == ["acme", "globex"]


def test_a_second_home_in_one_process_is_refused_and_leaves_the_first_as_it_was(whole: dict[str, Any]) -> None:
    assert "per process" in whole["other_home"]
    assert not whole["other_server"], "a server was left running"
    assert whole["after_other"]


def test_a_changed_plan_file_holds_from_the_next_opening_on(whole: dict[str, Any]) -> None:
    assert whole["plan"] == {"used": 1, "limit": 7}


# Keys


@pytest.mark.parametrize("missing", ["no_keyring", "no_keyring_no_root", "empty_keyring"])
def test_a_keyring_that_is_lost_is_missed_and_not_replaced(keys: dict[str, Any], missing: str) -> None:
    """A new, empty one would look like an installation whose people have all been erased."""
    attempt = keys[missing]
    assert attempt["refused"] is not None
    assert attempt["keyring"] is (missing == "empty_keyring")
    assert attempt["root"] in (True, None), "a new root key was made beside what the old one sealed"
    assert attempt["root"] is (True if missing == "no_keyring" else None)
    assert not attempt["server"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no_root", "root key"),
        ("other_root", "root key"),
        ("no_key", "base64"),
        ("open_root", "chmod 600"),
    ],
)
def test_a_root_key_that_is_lost_or_wrong_is_refused(keys: dict[str, Any], given: str, said: str) -> None:
    attempt = keys[given]
    assert said in attempt["refused"]
    assert attempt["keyring"]
    assert keys["key"] not in attempt["refused"]
    assert keys["other"] not in attempt["refused"]
    assert "not a key" not in attempt["refused"]
    assert not attempt["server"], "a refused start left its server running"


def test_with_its_keys_back_everything_is_there(keys: dict[str, Any]) -> None:
    assert keys["whole_again"] == 1
