"""An import that is killed anywhere goes on and stores each entry once; an export that is killed leaves no file."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cloud.kernel import failpoints
from cloud.transfer.verify import verify_export
from tests.support.disks import small_disk
from tests.support.homes import fill
from tests.support.processes import Child, Died, Installation

pytestmark = pytest.mark.crash

IMPORT_PLACES = tuple(name for name in failpoints.NAMES if name.startswith(("import.", "store.")))
REACHED_ONCE = {"import.begun", "import.recorded"}
EXPORT_PLACES = tuple(name for name in failpoints.NAMES if name.startswith("export."))
USERS = ("alice", "bob", "carol")
CHUNK = 10


def written(path: Path, count: int = 65) -> Path:
    """A file of memories of three people, with a fault in every seventh line."""
    with path.open("w") as out:
        for number in range(count):
            document: dict[str, Any] = {"user_id": USERS[number % 3], "content": f"fact {number}", "source": "test"}
            if number % 7:
                document["memory_type"] = "fact"
            out.write(json.dumps(document) + "\n")
    return path


def expected(count: int = 65) -> Counter[str]:
    return Counter(f"fact {number}" for number in range(count) if number % 7)


def found(child: Child, tenant_id: str) -> Counter[str]:
    """What everybody has, read cold."""
    child.ask("drain")
    child.ask("forget")
    answers = [child.ask("search", tenant=tenant_id, user=user) for user in USERS]
    return Counter(memory["content"] for answer in answers for memory in answer)


def ready(installation: Installation) -> Child:
    child = installation.child()
    child.ask("small_chunks", entries=CHUNK)
    return child


@pytest.mark.parametrize(
    ("place", "nth"), [(place, nth) for place in IMPORT_PLACES for nth in ((1,) if place in REACHED_ONCE else (1, 4))]
)
def test_a_killed_import_goes_on_and_stores_everything_once(
    place: str, nth: int, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    path, report = written(tmp_path / "m.jsonl"), tmp_path / "report.jsonl"
    child = ready(installation)
    child.ask("arm", name=place, action="kill_self", nth=nth)
    with pytest.raises(Died):
        child.ask("import", tenant=tenant_id, path=str(path), report=str(report))
    assert child.ended() == -signal.SIGKILL
    child = ready(installation)
    answer = child.ask("import", tenant=tenant_id, path=str(path), report=str(report))
    assert (answer["entries"], answer["failed"], answer["stopped"]) == (65, 10, None)
    assert answer["stored"] + answer["repeated"] == 55
    # A chunk has three batches, one a person: the fourth time of anything is in a later one.
    assert answer["resumed"] == (nth > 1 or place in ("import.checkpointed", "import.recorded"))
    assert found(child, tenant_id) == expected()
    assert installation.books().used(tenant_id) == 55
    faults = [line for line in map(json.loads, report.read_text().splitlines()) if "reason" in line]
    assert [fault["entry"] for fault in faults] == list(range(1, 66, 7))
    assert list((installation.home / "imports").iterdir()) == []
    ends = [event for event in installation.books().events(tenant_id) if event["action"] == "memory.import"]
    # That of the one which was killed may be there by now.
    ends = [event for event in ends if event["outcome"] != "unknown"]
    # Killed once it was recorded, it is recorded again by the run that finds nothing left to do.
    assert [event["outcome"] for event in ends] == ["allowed"] * (2 if place == "import.recorded" else 1)
    assert ends[-1]["counts"]["entries"] == 65
    begun = [event for event in installation.books().events(tenant_id) if event["action"] == "memory.import.step"]
    assert len(begun) == 2


@pytest.mark.parametrize("place", ["import.batch_stored", "import.chunk_stored", "store.sealed"])
def test_an_import_survives_that_the_server_is_killed(
    place: str, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    child = ready(installation)
    child.ask("arm", name=place, action="kill_server", nth=2)
    answer = child.ask("import", tenant=tenant_id, path=str(written(tmp_path / "m.jsonl")))
    child.ask("disarm")
    if answer["stopped"] is not None:
        assert answer["stopped"]["retryable"]
        answer = child.ask("import", tenant=tenant_id, path=str(tmp_path / "m.jsonl"))
    assert answer["stored"] + answer["repeated"] == 55
    assert found(child, tenant_id) == expected()


@pytest.mark.parametrize("place", EXPORT_PLACES)
def test_a_killed_export_leaves_no_file_of_its_name_and_the_next_one_is_whole(
    place: str, installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    child = ready(installation)
    child.ask("import", tenant=tenant_id, path=str(written(tmp_path / "m.jsonl")))
    out = tmp_path / "out" / "e.jsonl.gz"
    out.parent.mkdir()
    child.ask("arm", name=place, action="kill_self")
    with pytest.raises(Died):
        child.ask("export", tenant=tenant_id, path=str(out))
    assert child.ended() == -signal.SIGKILL
    assert not out.exists()
    answer = ready(installation).ask("export", tenant=tenant_id, path=str(out))
    assert answer["memories"] == 55
    assert verify_export(out).content_hash == answer["content_hash"]
    assert {path.name for path in out.parent.iterdir()} == {"e.jsonl.gz", "e.jsonl.gz.manifest.json"}
    events = installation.books().events(tenant_id)
    assert [event["reason"] for event in events if event["action"] == "memory.export.step"] == ["intent"] * 2


def test_a_full_disk_fails_an_export_which_leaves_nothing(
    installation: Installation, tenant_id: str, tmp_path: Path
) -> None:
    child = ready(installation)
    child.ask("import", tenant=tenant_id, path=str(written(tmp_path / "m.jsonl")))
    with small_disk() as disk:
        ballast = disk / "ballast"
        fill(ballast)
        refused = child.ask("export", tenant=tenant_id, path=str(disk / "e.jsonl"))
        assert refused["error"] == "ConfigurationError"
        assert [path.name for path in disk.iterdir()] == ["ballast"]
        events = [event for event in installation.books().events(tenant_id) if event["action"] == "memory.export_all"]
        assert [(event["outcome"], event["reason"]) for event in events] == [("failed", "configuration")]
        # The report of an import on the same disk: what was stored stays, and the next run tells the rest.
        stopped = child.ask("import", tenant=tenant_id, path=str(written(tmp_path / "n.jsonl", 66)),
                            report=str(disk / "report.jsonl"))  # fmt: skip
        assert stopped.get("error") == "ConfigurationError" or stopped["stopped"]["error"] == "ConfigurationError"
        ballast.unlink()
        assert child.ask("export", tenant=tenant_id, path=str(disk / "e.jsonl"))["memories"] >= 55
        answer = child.ask(
            "import", tenant=tenant_id, path=str(tmp_path / "n.jsonl"), report=str(disk / "report.jsonl")
        )
        assert (answer["stored"] + answer["repeated"], answer["stopped"]) == (56, None)
        assert found(child, tenant_id) == expected() + expected(66)
