"""Laws of the heads that are kept outside the database: only added to, never lowered, and nothing unsigned counts."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.audit.keyfile import AuditKeys
from cloud.audit.outside import HEADS, DirectoryHeads
from cloud.audit.signing import SigningKey
from cloud.audit.verify import Checkpoint
from cloud.kernel.errors import ConfigurationError

KEYS = AuditKeys("0011223344556677", (SigningKey.new(), SigningKey.new()))


class Clock:
    """A day that the test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heads(tmp_path: Path, clock: Clock) -> DirectoryHeads:
    return DirectoryHeads(tmp_path / "heads", lambda: KEYS, clock)


def head(log_id: str, size: int, fill: int = 0) -> Checkpoint:
    return Checkpoint(KEYS.origin(log_id), size, bytes([fill]) * 32)


def note(log_id: str, size: int, fill: int = 0, key: SigningKey | None = None) -> str:
    return (key or KEYS.current).checkpoint(head(log_id, size, fill))


def day(tmp_path: Path, name: str = "2026-01-31") -> Path:
    return tmp_path / "heads" / f"{name}.ndjson"


def test_the_largest_head_of_each_log_counts_and_of_one_size_the_first(heads: DirectoryHeads) -> None:
    heads.append([note("acme", 5), note("other", 1)])
    heads.append([note("acme", 9, 1)])
    heads.append([note("acme", 7, 2), note("acme", 9, 3)])
    assert heads.heads() == {"acme": head("acme", 9, 1), "other": head("other", 1)}


@pytest.mark.parametrize("summarized", [0, 1, 2])
def test_a_list_of_all_heads_changes_nothing_but_how_far_is_read(
    heads: DirectoryHeads, clock: Clock, tmp_path: Path, summarized: int
) -> None:
    heads.append([note("acme", 5)])
    if summarized:
        heads.summarize()
    clock.now += timedelta(hours=1)
    heads.append([note("acme", 6), note("other", 2)])
    if summarized == 2:
        heads.summarize()
        # What the list covers is not read again.
        day(tmp_path).write_text("spoiled\n")
    heads.append([note("other", 3)])
    assert heads.heads() == {"acme": head("acme", 6), "other": head("other", 3)}
    assert day(tmp_path, "2026-02-01").exists()


@pytest.mark.parametrize("summarized", [False, True])
def test_a_clock_that_was_ahead_hides_nothing_that_comes_after(
    heads: DirectoryHeads, clock: Clock, tmp_path: Path, summarized: bool
) -> None:
    heads.append([note("acme", 10)])
    clock.now += timedelta(days=3)
    heads.append([note("acme", 20)])
    heads.summarize()
    clock.now -= timedelta(days=3)
    heads.append([note("acme", 500)])
    if not summarized:
        (tmp_path / "heads" / HEADS).unlink()
    assert heads.heads() == {"acme": head("acme", 500)}
    heads.restart(head("acme", 15, 7), "restored")
    assert heads.heads() == {"acme": head("acme", 15, 7)}
    heads.append([note("acme", 16)])
    clock.now += timedelta(days=4)
    heads.append([note("acme", 17)])
    assert heads.heads() == {"acme": head("acme", 17)}
    assert [path.name for path in sorted((tmp_path / "heads").glob("*.ndjson"))] == [
        f"2026-{name}.ndjson" for name in ("01-31", "02-03", "02-04")
    ]


def test_a_line_that_another_process_overtakes_with_a_later_file_is_not_hidden(
    heads: DirectoryHeads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at midnight: one has chosen its file when the other begins the next, and signs a list that reaches into it."""
    tomorrow = Clock()
    tomorrow.now += timedelta(days=1)
    other = DirectoryHeads(tmp_path / "heads", lambda: KEYS, tomorrow)
    real = os.open

    def overtaken(*arguments: Any, **options: Any) -> int:
        monkeypatch.setattr(os, "open", real)
        other.append([note("other", 1)])
        other.summarize()
        return real(*arguments, **options)

    monkeypatch.setattr(os, "open", overtaken)
    heads.append([note("acme", 5)])
    assert heads.heads() == {"acme": head("acme", 5), "other": head("other", 1)}


@pytest.mark.parametrize("left", [0, 1, None])
@pytest.mark.parametrize("ahead_days", [0, 3])
def test_nothing_is_added_where_the_list_of_all_heads_lets_nobody_read(
    heads: DirectoryHeads, clock: Clock, tmp_path: Path, left: int | None, ahead_days: int
) -> None:
    """The file that it reaches into was removed, or was put back from a copy of an earlier time."""
    clock.now += timedelta(days=ahead_days)
    heads.append([note("acme", 5)])
    heads.append([note("acme", 6)])
    heads.summarize()
    (file,) = (tmp_path / "heads").glob("*.ndjson")
    lines = file.read_bytes().splitlines(keepends=True)
    if left is None:
        file.unlink()
    else:
        file.write_bytes(b"".join(lines[:left]))
    clock.now -= timedelta(days=ahead_days)
    for size in (7, 8, 9):
        heads.append([note("acme", size)])
        assert heads.heads() == {"acme": head("acme", size)}
    heads.summarize()
    clock.now += timedelta(days=9)
    heads.append([note("acme", 10)])
    assert heads.heads() == {"acme": head("acme", 10)}
    assert day(tmp_path, "2026-02-09").exists()


def test_a_list_that_says_not_how_far_it_reaches_keeps_no_head_from_being_written(
    heads: DirectoryHeads, tmp_path: Path
) -> None:
    heads.summarize()
    heads.append([note("acme", 5)])
    assert heads.heads() == {"acme": head("acme", 5)}
    (tmp_path / "heads" / HEADS).write_bytes(b"spoiled")
    heads.append([note("acme", 6)])
    (tmp_path / "heads" / HEADS).unlink()
    assert heads.heads() == {"acme": head("acme", 6)}


def test_files_are_private_and_only_added_to(heads: DirectoryHeads, tmp_path: Path) -> None:
    heads.append([note("acme", 1)])
    before = day(tmp_path).read_bytes()
    heads.append([note("acme", 2)])
    heads.summarize()
    assert day(tmp_path).read_bytes().startswith(before)
    for path in (tmp_path / "heads").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_process_was_killed_in_is_no_line_and_spoils_no_other(heads: DirectoryHeads, tmp_path: Path) -> None:
    heads.append([note("acme", 1)])
    with day(tmp_path).open("ab") as file:
        file.write(b'{"at": "2026')
    assert heads.heads() == {"acme": head("acme", 1)}
    heads.append([note("acme", 2)])
    assert heads.heads() == {"acme": head("acme", 2)}


def test_former_keys_still_count(heads: DirectoryHeads) -> None:
    heads.append([note("acme", 3, key=KEYS.keys[0])])
    heads.append([note("acme", 4)])
    assert heads.heads() == {"acme": head("acme", 4)}


def test_a_head_that_nobody_of_us_signed_is_no_head_and_is_said(heads: DirectoryHeads, tmp_path: Path) -> None:
    heads.append([note("acme", 3)])
    heads.append([note("acme", 4, key=SigningKey.new())])
    with pytest.raises(ConfigurationError, match=r"2026-01-31\.ndjson was changed"):
        heads.heads()


def test_heads_of_another_installation_are_told_apart(heads: DirectoryHeads) -> None:
    other = AuditKeys("ffffffffffffffff", KEYS.keys)
    heads.append([other.current.checkpoint(Checkpoint(other.origin("acme"), 3, bytes(32)))])
    with pytest.raises(ConfigurationError, match="another installation"):
        heads.heads()


def test_a_list_that_was_changed_is_not_believed(heads: DirectoryHeads, tmp_path: Path) -> None:
    heads.append([note("acme", 12)])
    heads.summarize()
    path = tmp_path / "heads" / HEADS
    path.write_text(path.read_text("utf-8").replace("acme 12", "acme 11"), "utf-8")
    with pytest.raises(ConfigurationError, match="was changed"):
        heads.heads()


def test_a_restart_lowers_a_head_and_says_why(heads: DirectoryHeads, tmp_path: Path) -> None:
    heads.append([note("acme", 9)])
    heads.summarize()
    heads.restart(head("acme", 4, 7), "restored")
    heads.append([note("acme", 5, 8)])
    assert heads.heads() == {"acme": head("acme", 5, 8)}
    heads.summarize()
    assert heads.heads() == {"acme": head("acme", 5, 8)}
    assert "restored" in day(tmp_path).read_text("utf-8")


def test_a_restart_that_nobody_of_us_signed_is_said(heads: DirectoryHeads, tmp_path: Path) -> None:
    heads.append([note("acme", 9)])
    forged = SigningKey.new().note(f'luminescent audit restart\n"x"\n{head("acme", 4).text()}', KEYS.name)
    with day(tmp_path).open("ab") as file:
        file.write(json.dumps({"restarts": [forged]}).encode() + b"\n")
    with pytest.raises(ConfigurationError, match="restart is not signed"):
        heads.heads()


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open" / "file").touch()
    with pytest.raises(ConfigurationError, match="open to other accounts"):
        DirectoryHeads(tmp_path / "open", lambda: KEYS, clock)
