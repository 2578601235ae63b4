"""Long work shows how far it is on a terminal, and nowhere else."""

from __future__ import annotations

import inspect
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cloud.cli as commands
from cloud.cli import (
    backup,
    bench,
    embeddings,
    gdpr,
    gdpr_requests,
    keyring,
    leak_test,
    memory_changing,
    tenants,
    transfer,
    usage,
)
from cloud.cli.locomo import read_locomo
from cloud.cli.output import Output
from cloud.cli.progress import progress
from cloud.cli.recall import measure
from src.memory.providers.local import LocalMemoryProvider
from tests.unit.cloud.cli.test_bench import conversation


class Stream(io.StringIO):
    """Standard error, as a terminal or as a pipe."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What is written to standard error while a bar is told how far it is."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def show(*, is_terminal: bool, as_json: bool = False) -> str:
        stream = Stream(is_terminal=is_terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        with progress(Output(as_json=as_json), "Moving acme\x1b[2J") as bar:
            bar.told(1_234, 5_678)
            bar.phase("Judging acme", 1, 3)
            assert list(bar.over(["a", "b"])) == ["a", "b"]
        return stream.getvalue()

    return show


def test_a_terminal_shows_what_is_done_and_how_much(shown: Callable[..., str], capsys: Any) -> None:
    text = shown(is_terminal=True)
    assert "Judging acme" in text
    assert "2 of 2" in text
    assert "\x1b[2J" not in text
    assert capsys.readouterr().out == ""


def test_a_pipe_and_a_document_show_nothing(shown: Callable[..., str], capsys: Any) -> None:
    assert shown(is_terminal=False) == ""
    assert shown(is_terminal=True, as_json=True) == ""
    assert capsys.readouterr().out == ""


def test_no_command_has_a_bar_of_its_own() -> None:
    """The rules, for one terminal and for `--json`, stand in one place."""
    others = [
        path.name
        for path in Path(commands.__path__[0]).glob("*.py")
        if "rich.progress" in path.read_text("utf-8") and path.name != "progress.py"
    ]
    assert others == []


@pytest.mark.parametrize(
    "command",
    [
        backup.create,
        backup.drill,
        backup.expire,
        backup.restore,
        bench.recall,
        embeddings.finish,
        embeddings.migrate,
        embeddings.rollback,
        gdpr.erase,
        gdpr.export,
        gdpr_requests.confirm,
        gdpr_requests.resume,
        keyring.backup,
        keyring.reconcile,
        keyring.restore,
        keyring.rotate,
        keyring.status,
        leak_test.leak_test,
        memory_changing.purge,
        tenants.close,
        tenants.move,
        transfer.export,
        transfer.import_,
        transfer.verify_export,
        usage.reconcile,
    ],
)
def test_what_may_take_long_shows_that_it_is_at_work(command: Callable[..., None]) -> None:
    assert "progress(run.output," in inspect.getsource(command)


async def test_a_measurement_tells_of_every_memory_and_question(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps([conversation("one")]))
    await measure(LocalMemoryProvider(), read_locomo(path), progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 1
    assert [done for done, _ in told] == sorted(done for done, _ in told)
