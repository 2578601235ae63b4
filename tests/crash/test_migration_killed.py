"""A change of models, and the way back, are killed at every named place; the same command finishes what it began, and
no row is without its vector.
"""

from __future__ import annotations

import signal

import pytest

from cloud.kernel import failpoints
from cloud.kernel.ids import SYSTEM_LOG
from cloud.tenancy.model import pooled_placement
from tests.crash.laws import assert_whole
from tests.support.processes import Died, HowKilled, Installation

pytestmark = pytest.mark.crash

SWITCHES = ("embeddings.switched", "embeddings.made_stale")
DROPS = ("embeddings.emptied",)
PLACES = tuple(name for name in failpoints.NAMES if name.startswith("embeddings.") and name not in DROPS)
USERS = ("alice", "bob")
READ = {"hashing": "embedding", "wordllama": "embedding_2"}


@pytest.fixture
def placement(installation: Installation, tenant_id: str) -> str:
    """The tenant's table, with memories in it and some in intake; read with the model hashing."""
    child, name = installation.child(), pooled_placement(tenant_id)
    _as_it_began(installation, name)
    for user in USERS:
        child.ask("store_many", tenant=tenant_id, user=user, contents=[f"{user} saw crane {n} turn" for n in range(6)])
    child.ask("drain")
    child.ask("store", tenant=tenant_id, user="alice", contents=["the harbour gate opens at six"])
    return name


def _as_it_began(installation: Installation, name: str) -> None:
    """Tenants of a module share tables: back to the first model, which is kept in the first column."""
    child = installation.child()
    (found,) = installation.books().query("SELECT model, state FROM placements WHERE placement = %s", [name])
    if found == ("wordllama", "switched"):
        assert child.ask("rollback", placement=name) == "hashing"
    assert child.ask("finish", placement=name) == "serving"


def assert_read_with(installation: Installation, tenant_id: str, name: str, model: str) -> None:
    child = installation.child()
    child.ask("drain")
    assert installation.books().placement(tenant_id)[1] == model
    counts = child.ask("vectors", tenant=tenant_id, placement=name, model=model)
    assert counts[READ[model]] == counts["rows"] > 0, "a row without a vector of the model that is read"


def told(installation: Installation, action: str) -> list[tuple[str, str, str | None]]:
    """What the system log says of a command and its steps: action, outcome, reason."""
    events = installation.books().events(SYSTEM_LOG)
    return [
        (event["action"], event["outcome"], event["reason"])
        for event in events
        # What became of those that were killed is said after a while, beside what is looked at here.
        if event["action"] in (action, f"{action}.step") and event["outcome"] != "unknown"
    ]


@pytest.mark.parametrize("place", PLACES)
def test_the_same_command_finishes_a_migration_that_was_killed_at(
    place: str, installation: Installation, tenant_id: str, placement: str
) -> None:
    child = installation.child()
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("migrate", placement=placement, model="wordllama")
    assert child.ended() == -signal.SIGKILL
    # Whatever is read now is complete, and what is written meanwhile is too.
    child = installation.child()
    child.ask("store", tenant=tenant_id, user="bob", contents=["a forklift after the kill"])
    model = installation.books().placement(tenant_id)[1]
    assert model == ("wordllama" if place in SWITCHES else "hashing")
    assert_read_with(installation, tenant_id, placement, model)

    child.ask("migrate", placement=placement, model="wordllama")
    assert installation.books().placement(tenant_id) == (placement, "wordllama", "switched")
    assert_read_with(installation, tenant_id, placement, "wordllama")
    assert_whole(installation, tenant_id, USERS)
    child.ask("forget")
    child.ask("search", tenant=tenant_id, user="bob")
    assert child.ask("hot_model", tenant=tenant_id, user="bob") == "wordllama"


@pytest.mark.parametrize("place", SWITCHES)
def test_the_same_command_finishes_a_rollback_that_was_killed_at_and_goes_no_further(
    place: str, installation: Installation, tenant_id: str, placement: str
) -> None:
    child, books = installation.child(), installation.books()
    child.ask("migrate", placement=placement, model="wordllama")
    before = told(installation, "embeddings.rollback")
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("rollback", placement=placement)
    assert child.ended() == -signal.SIGKILL
    assert books.placement(tenant_id) == (placement, "hashing", "switching")
    intent = ("embeddings.rollback.step", "allowed", "intent")
    assert told(installation, "embeddings.rollback")[len(before) :] == [intent], "the switch is in the log"

    child = installation.child()
    assert child.ask("rollback", placement=placement) == "hashing"
    assert books.placement(tenant_id) == (placement, "hashing", "switched")
    again = child.ask("rollback", placement=placement)
    assert again["error"] == "ConfigurationError"
    assert books.placement(tenant_id) == (placement, "hashing", "switched"), "went forward again"
    assert told(installation, "embeddings.rollback")[len(before) :] == [
        intent,
        ("embeddings.rollback.step", "allowed", "resumed"),
        ("embeddings.rollback", "allowed", None),
        ("embeddings.rollback", "failed", "configuration"),
    ]
    assert_read_with(installation, tenant_id, placement, "hashing")
    assert_whole(installation, tenant_id, USERS)


@pytest.mark.parametrize("place", DROPS)
def test_the_same_command_finishes_dropping_the_other_models_vectors_when_killed_at(
    place: str, installation: Installation, tenant_id: str, placement: str
) -> None:
    child = installation.child()
    child.ask("migrate", placement=placement, model="wordllama")
    before = told(installation, "embeddings.finish")
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("finish", placement=placement)
    assert child.ended() == -signal.SIGKILL
    child = installation.child()
    assert installation.books().placement(tenant_id) == (placement, "wordllama", "emptying")
    assert child.ask("finish", placement=placement) == "serving"
    assert told(installation, "embeddings.finish")[len(before) :] == [
        ("embeddings.finish.step", "allowed", "intent"),
        ("embeddings.finish.step", "allowed", "resumed"),
        ("embeddings.finish", "allowed", None),
    ]
    assert child.ask("vectors", tenant=tenant_id, placement=placement, model="hashing")["embedding"] == 0
    assert_read_with(installation, tenant_id, placement, "wordllama")
    # Hand the table back as the other tests know it.
    child.ask("migrate", placement=placement, model="hashing")
    assert_read_with(installation, tenant_id, placement, "hashing")


@pytest.mark.parametrize("place", DROPS)
def test_a_refused_migration_that_was_killed_at_is_refused_again_and_leaves_no_vectors(
    place: str, installation: Installation, tenant_id: str, placement: str
) -> None:
    child = installation.child()
    child.ask("migrate", placement=placement, model="wordllama")
    child.ask("finish", placement=placement)
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("migrate", placement=placement, model="hashing", tolerance=0.0)
    assert child.ended() == -signal.SIGKILL
    child = installation.child()
    assert installation.books().placement(tenant_id) == (placement, "wordllama", "emptying")
    assert child.ask("finish", placement=placement) == "serving"
    assert child.ask("vectors", tenant=tenant_id, placement=placement, model="hashing")["embedding"] == 0
    assert_read_with(installation, tenant_id, placement, "wordllama")
    # Hand the table back as the other tests know it.
    child.ask("migrate", placement=placement, model="hashing")
    assert_read_with(installation, tenant_id, placement, "hashing")


@pytest.mark.parametrize(
    ("place", "how"), [("embeddings.page_filled", "everything"), ("embeddings.gated", "postmaster")]
)
def test_a_migration_survives_that_the_server_is_killed_at(
    place: str, how: HowKilled, installation: Installation, tenant_id: str, placement: str
) -> None:
    child = installation.child()
    child.ask("arm", name=place, action="kill_server", how=how)
    answer = child.ask("migrate", placement=placement, model="wordllama")
    child.ask("disarm")
    if "error" in answer:
        assert answer["retryable"], answer
        child.ask("migrate", placement=placement, model="wordllama")
    assert_read_with(installation, tenant_id, placement, "wordllama")
    assert_whole(installation, tenant_id, USERS)


def test_another_process_writes_both_columns_and_reads_the_new_model_after_the_switch(
    installation: Installation, tenant_id: str, placement: str
) -> None:
    child, other = installation.child(), installation.another()
    installation.open(other)
    other.ask("search", tenant=tenant_id, user="alice")
    assert other.ask("hot_model", tenant=tenant_id, user="alice") == "hashing"
    child.say("migrate", placement=placement, model="wordllama")
    for n in range(6):
        other.ask("store", tenant=tenant_id, user="alice", contents=[f"written beside the migration {n}"])
    child.told()
    for model, back in (("wordllama", None), ("hashing", "rollback")):
        if back is not None:
            assert child.ask(back, placement=placement) == model
        found = other.ask("retrieve", tenant=tenant_id, user="alice", query="written beside the migration 3")
        assert found[0]["content"] == "written beside the migration 3"
        assert other.ask("hot_model", tenant=tenant_id, user="alice") == model
        assert_read_with(installation, tenant_id, placement, model)
    assert_whole(installation, tenant_id, USERS)
