"""Whatever a command dies of, it says so in a line, without a traceback and without what a message might quote."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud import CloudSettings
from cloud.backup.service import DataBackups
from cloud.cli import app
from cloud.cli.ports import Program, Runtime
from cloud.custody.service import Custody
from cloud.kernel.errors import ProviderUnavailableError
from cloud.startup import upkeep


def failing(error: Exception) -> Program:
    """A program whose installation cannot be opened."""

    def open_(_: CloudSettings) -> contextlib.AbstractContextManager[Runtime]:
        raise error

    def run_worker(_: CloudSettings, stop: threading.Event) -> None:
        raise error

    def open_custody(_: CloudSettings, *, with_keyring: bool) -> contextlib.AbstractContextManager[Custody]:
        raise error

    def open_backups(_: CloudSettings) -> contextlib.AbstractContextManager[DataBackups]:
        raise error

    return Program(
        settings=CloudSettings,
        open=open_,
        open_custody=open_custody,
        open_backups=open_backups,
        run_worker=run_worker,
        upkeep=upkeep,
    )


def test_a_defect_is_reported_by_kind_and_place_without_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("secret-4711")
    except KeyError as error:
        app._unexpected(KeyError, error, error.__traceback__)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: unexpected KeyError at {Path(__file__).name}:")
    assert "4711" not in said.err
    assert "Traceback" not in said.err


def test_a_part_that_does_not_answer_ends_with_the_code_for_trying_again(tmp_path: Path) -> None:
    made = app.build_app(failing(ProviderUnavailableError("control plane")))
    result = CliRunner().invoke(made, ["--home", str(tmp_path), "--json", "tenants", "list"])
    assert result.exit_code == 6
    assert '"retryable": true' in result.stdout
    assert "error: control plane" in result.stderr


def test_an_error_of_the_operating_system_names_the_file(tmp_path: Path) -> None:
    made = app.build_app(failing(PermissionError(13, "Permission denied", str(tmp_path / "x"))))
    result = CliRunner().invoke(made, ["--home", str(tmp_path), "tenants", "list"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [f"error: {tmp_path / 'x'}: Permission denied"]


def test_two_settings_that_do_not_fit_are_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMINESCENT_CLOUD_CONTROL_URL", "postgresql://:s3cret@db.example.com/x")
    result = CliRunner().invoke(app.build_app(failing(AssertionError())), ["db", "current"])
    assert result.exit_code == 1
    assert "settings: control_url and data_url belong together" in result.stderr
    assert "s3cret" not in result.output


@pytest.mark.parametrize("as_json", [True, False])
def test_a_worker_says_in_a_line_each_when_it_begins_and_when_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    program = replace(failing(AssertionError()), run_worker=lambda _settings, _stop: None)
    typed = ["--home", str(tmp_path), *(["--json"] if as_json else []), "worker"]
    result = CliRunner().invoke(app.build_app(program), typed)
    assert result.exit_code == 0
    assert "Materializing in" in result.stderr
    said = [json.loads(line) for line in result.stdout.splitlines()]
    about = {"home": str(tmp_path), "pid": os.getpid()}
    assert said == ([{"worker": "started", **about}, {"worker": "ended", **about}] if as_json else [])
