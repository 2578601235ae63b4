"""The command over the run's installation, in this process: a real runtime, without the seconds of opening one."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cloud import CloudRuntime, CloudSettings
from cloud.cli.app import build_app
from cloud.cli.ports import Program
from cloud.custody.service import Custody
from cloud.startup import upkeep

Command = Callable[..., Result]


@pytest.fixture
def command(runtime: CloudRuntime, home: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command with the arguments given, and the environment of nobody's API key."""
    monkeypatch.delenv("LUMINESCENT_CLOUD_API_KEY", raising=False)

    def settings(**given: Any) -> CloudSettings:
        return CloudSettings(**{"home": home, **given})

    def run_worker(_: CloudSettings, stop: threading.Event) -> None:
        stop.wait()

    def open_custody(_: CloudSettings, *, with_keyring: bool) -> contextlib.AbstractContextManager[Custody]:
        return contextlib.nullcontext(runtime.keyring)

    app = build_app(
        Program(
            settings=settings,
            open=lambda _: contextlib.nullcontext(runtime),
            open_custody=open_custody,
            open_backups=lambda _: contextlib.nullcontext(runtime.backups),
            run_worker=run_worker,
            upkeep=upkeep,
        )
    )

    def run(*arguments: str | Path, env: dict[str, str] | None = None, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env, input=typed)

    return run


@pytest.fixture
def key_file(runtime: CloudRuntime, tenant_id: str, tmp_path: Path) -> Callable[..., Path]:
    """Makes an API key of this test's tenant and returns the file it is in."""

    def make(role: str, *, user_id: str | None = None) -> Path:
        path = tmp_path / f"{role}.key"
        path.write_text(runtime.api_keys.create(tenant_id, roles=[role], user_id=user_id) + "\n")
        path.chmod(0o600)
        return path

    return make


@pytest.fixture
def events(runtime: CloudRuntime, tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """The events of a log."""
    number = iter(range(1_000))

    def read(log_id: str) -> list[dict[str, Any]]:
        path = runtime.audit.export(log_id, tmp_path / f"log-{next(number)}")
        return [json.loads(line) for line in path.read_bytes().splitlines()]

    return read
