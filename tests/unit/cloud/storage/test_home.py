"""Laws of the home directory: private, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cloud.kernel.errors import ConfigurationError
from cloud.storage.home import open_home, private_directory, write_private
from tests.support.homes import temporary_home

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to give files to another account")
STRANGER = 65534


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_missing_home_is_made_private_with_what_is_in_it() -> None:
    with temporary_home() as directory:
        home = open_home(directory / "new")
        assert [mode_of(path) for path in (home.root, home.secrets, home.locks)] == [0o700] * 3


def test_an_empty_directory_is_made_private() -> None:
    with temporary_home() as directory:
        directory.chmod(0o777)
        open_home(directory)
        assert mode_of(directory) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o750, 0o704])
def test_a_home_in_which_others_can_read_or_write_is_refused_and_left_as_it_is(mode: int) -> None:
    with temporary_home() as directory:
        (directory / "planted").touch()
        directory.chmod(mode)
        with pytest.raises(ConfigurationError, match="open to other accounts"):
            open_home(directory)
        assert mode_of(directory) == mode


@pytest.mark.parametrize("name", ["secrets", "locks"])
def test_a_directory_in_the_home_that_others_can_enter_is_refused(name: str) -> None:
    with temporary_home() as directory:
        open_home(directory)
        (directory / name / "planted").touch()
        (directory / name).chmod(0o711)
        with pytest.raises(ConfigurationError, match=name):
            open_home(directory)


@root_only
def test_a_home_of_another_account_is_refused() -> None:
    with temporary_home() as directory:
        os.chown(directory, STRANGER, STRANGER)
        with pytest.raises(ConfigurationError, match=f"belongs to uid {STRANGER}"):
            open_home(directory)


@root_only
def test_a_link_of_another_account_is_refused_and_ones_own_is_followed() -> None:
    with temporary_home() as directory:
        target = directory / "target"
        link = directory / "link"
        link.symlink_to(target)
        assert open_home(link).root == target
        os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
        with pytest.raises(ConfigurationError, match="symbolic link"):
            open_home(link)


def test_the_longest_path_that_leaves_room_for_a_socket_is_accepted_and_one_more_is_not() -> None:
    with temporary_home() as directory:
        room = 107 - len("/postgres/socket/.s.PGSQL.5432") - len(str(directory)) - 1
        open_home(directory / ("x" * room))
        with pytest.raises(ConfigurationError, match="1 bytes shorter"):
            open_home(directory / ("x" * (room + 1)))


def test_the_limit_counts_bytes_and_not_characters() -> None:
    with temporary_home() as directory:
        room = 107 - len("/postgres/socket/.s.PGSQL.5432") - len(str(directory)) - 1
        with pytest.raises(ConfigurationError, match="too deep"):
            open_home(directory / ("ü" * room))


@pytest.mark.parametrize("character", [",", '"', "'", "$", "`", "\\", "\n"])
def test_a_path_that_would_mean_something_else_to_the_server_is_refused(character: str) -> None:
    with temporary_home() as directory, pytest.raises(ConfigurationError, match="may not hold"):
        open_home(directory / f"a{character}b")


def test_a_file_is_no_home() -> None:
    with temporary_home() as directory:
        (directory / "file").touch()
        with pytest.raises(ConfigurationError):
            open_home(directory / "file")


def test_a_private_file_replaces_a_link_and_does_not_follow_it() -> None:
    with temporary_home() as directory:
        outside = directory / "outside"
        outside.write_text("untouched")
        path = private_directory(directory / "inside") / "file"
        path.symlink_to(outside)
        write_private(path, b"secret")
        assert outside.read_text() == "untouched"
        assert not path.is_symlink()
        assert path.read_bytes() == b"secret"
        assert mode_of(path) == 0o600
        assert list(path.parent.iterdir()) == [path]
