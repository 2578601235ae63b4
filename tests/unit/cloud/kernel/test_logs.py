"""Log lines hold what authors of programs wrote, and not what people stored."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from cloud.kernel.logs import configure_logs

SECRET = "qwertyuiop"


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("form", ["text", "json"])
def test_foreign_lines_lose_their_values_and_ours_keep_their_ids(
    form: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logs(form, "info")  # type: ignore[arg-type]
    foreign, ours = logging.getLogger("somebody.library"), logging.getLogger("cloud.memory.worker")
    foreign.warning("could not read %s", SECRET)
    foreign.warning(f"could not read {SECRET}")  # noqa: G004 - what is tested
    ours.warning("waits for %d rows", 7)
    ours.debug("below the level")
    try:
        raise ValueError(SECRET)
    except ValueError:
        ours.exception("a batch failed")  # noqa: TRY400
        foreign.error("it failed", exc_info=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert SECRET not in "".join(lines)
    assert "could not read %s" in lines[0]
    assert "a message of somebody.library at test_logs.py:" in lines[1]
    assert "waits for 7 rows" in lines[2]
    assert "ValueError at test_logs.py:" in lines[3]
    if form == "json":
        line = json.loads(lines[2])
        assert list(line) == ["time", "level", "logger", "message", "trace_id"]
        assert (line["level"], line["logger"], line["trace_id"]) == ("warning", "cloud.memory.worker", None)
        assert json.loads(lines[3])["error"].startswith("ValueError at")


@pytest.mark.usefixtures("restored")
def test_configuring_again_replaces_ours_and_leaves_an_applications_handlers() -> None:
    root, theirs = logging.getLogger(), logging.StreamHandler(sys.stderr)
    root.addHandler(theirs)
    before = len(root.handlers)
    for form in ("json", "text"):
        configure_logs(form, "warning")  # type: ignore[arg-type]
    assert theirs in root.handlers
    assert len(root.handlers) == before + 1
    root.removeHandler(theirs)
