"""One placement in trouble keeps no other one waiting, and nothing of what else the loop does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from cloud.kernel.errors import ProviderUnavailableError
from cloud.memory import materializer
from cloud.memory.materializer import Materializer, Moved
from cloud.storage.engine import CONTROL_PLANE

WITHIN_S = 20.0


class Loop(Materializer):
    """A materializer whose planes are played: every placement has a row waiting, and `trouble` fails."""

    def __init__(self, trouble: str, component: str = "pixeltable") -> None:
        self.stop = threading.Event()
        self.batches: list[str] = []
        self.chores = 0
        super().__init__(cast(Any, self), cast(Any, None), cast(Any, None), chores=(self.chore,))
        self._trouble, self._component = trouble, component

    def rows(self, _statement: object, _parameters: object = None) -> list[tuple[str]]:
        return [("a",), ("b",), ("c",)]

    def chore(self) -> None:
        self.chores += 1
        self.stop.set()

    def batch(self, placement: str) -> Moved:
        self.batches.append(placement)
        if placement == self._trouble:
            raise ProviderUnavailableError(self._component)
        return Moved(1, 0, 0)

    def look(self) -> None:
        """Nothing is measured."""

    def expire(self) -> int:
        return 0

    def sweep(self) -> int:
        return 0


@pytest.fixture(autouse=True)
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def held(*_: object, **__: object) -> Iterator[bool]:
        yield True

    monkeypatch.setattr(materializer, "placement_lock", held)


@pytest.mark.parametrize("trouble", ["a", "b", "c"])
def test_the_others_are_materialized_and_the_chores_done(trouble: str) -> None:
    loop = Loop(trouble)
    threading.Timer(WITHIN_S, loop.stop.set).start()
    loop.run(loop.stop)
    assert loop.batches == ["a", "b", "c"]
    assert loop.chores == 1


def test_it_is_left_alone_for_a_while_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop("a")
    assert [loop.round(), loop.round()] == [2, 2]
    assert loop.batches == ["a", "b", "c", "b", "c"]
    monkeypatch.setattr(materializer.time, "monotonic", lambda now=materializer.time.monotonic: now() + 60)
    loop.round()
    assert loop.batches[5:] == ["a", "b", "c"]


def test_what_all_of_them_need_is_waited_for() -> None:
    loop = Loop("a", CONTROL_PLANE)
    with pytest.raises(ProviderUnavailableError):
        loop.round()
    assert loop.batches == ["a"]


def test_a_stop_is_not_kept_waiting_by_those_that_follow() -> None:
    loop = Loop("a")
    loop.stop.set()
    assert loop.round(loop.stop) == 0
