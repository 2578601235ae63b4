"""What the worker does once an hour: what fails is said, and keeps neither the rest nor the worker from going on."""

from __future__ import annotations

import logging
import threading

import pytest

from cloud import CloudRuntime
from cloud.backup.service import DataBackups
from cloud.kernel.errors import ConfigurationError, LuminescentError, ProviderUnavailableError
from cloud.memory.purge import Purger
from cloud.memory.retaining import Retainer

CHORES = ((Purger, "run"), (Retainer, "run"), (DataBackups, "expire_due"))
WITHIN_S = 10.0


@pytest.mark.parametrize("error", [ConfigurationError("it is damaged"), ProviderUnavailableError("data plane")])
@pytest.mark.parametrize("failing", range(len(CHORES)))
def test_an_hourly_chore_that_fails_ends_neither_the_others_nor_the_materializer(
    runtime: CloudRuntime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: LuminescentError,
    failing: int,
) -> None:
    done: list[int] = []
    stop, mine = threading.Event(), threading.get_ident()

    def chore(number: int) -> None:
        if threading.get_ident() != mine:
            return  # The run's own worker does this, too.
        done.append(number)
        if number == len(CHORES) - 1:
            stop.set()
        if number == failing:
            raise error

    for number, (owner, name) in enumerate(CHORES):
        monkeypatch.setattr(owner, name, lambda _, number=number: chore(number))
    # A chore that is kept from running sets nothing.
    gives_up = threading.Timer(WITHIN_S, stop.set)
    gives_up.start()
    with caplog.at_level(logging.ERROR):
        runtime._installation.materializer().run(stop)
    gives_up.cancel()
    assert done == list(range(len(CHORES)))
    (said,) = [record.message for record in caplog.records if record.thread == mine]
    assert said.endswith(f"later: {error}")
