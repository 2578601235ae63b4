"""Laws of files that a command writes once: nothing is begun without one, and none is left that says nothing."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import pytest

from cloud.cli.new_files import claimed
from cloud.kernel.errors import ConfigurationError


def test_a_file_is_there_and_private_before_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with claimed(path) as write:
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"", 0o600)
        write("é\n")
        assert path.read_text("utf-8") == "é\n", "not only at the end: what follows may fail"
    assert path.read_text("utf-8") == "é\n"


def test_what_fails_before_it_is_written_leaves_no_file_and_after_it_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with pytest.raises(KeyboardInterrupt), claimed(path):
        raise KeyboardInterrupt
    assert not path.exists()
    with contextlib.suppress(KeyError), claimed(path) as write:
        write("kept")
        raise KeyError
    assert path.read_text() == "kept"


def test_a_name_that_is_taken_is_refused_and_left_alone(tmp_path: Path) -> None:
    path, link = tmp_path / "taken", tmp_path / "link"
    path.write_text("before")
    link.symlink_to(tmp_path / "elsewhere")
    for taken in (path, link, tmp_path):
        with pytest.raises(ConfigurationError, match="is there already"), claimed(taken):
            pytest.fail("nothing is begun")
    assert path.read_text() == "before"
    assert not (tmp_path / "elsewhere").exists()


def test_where_nothing_can_be_made_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written: No such file"), claimed(tmp_path / "no" / "new"):
        pytest.fail("nothing is begun")


def test_without_a_name_nothing_is_written() -> None:
    with claimed(None) as write:
        write("nowhere")
