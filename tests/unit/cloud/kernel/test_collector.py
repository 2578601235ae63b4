"""What lasts is left out of collections while a service runs, and no longer."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from cloud.kernel import collector
from cloud.kernel.collector import paused, what_lasts_left_out
from cloud.kernel.wanted import WhileWanted


class Node:
    """Something that refers to itself, so that only a collection takes it away."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _nothing_left_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The service of this test run has left out what was there when it started.
    monkeypatch.setattr(collector, "_lasting", WhileWanted(collector._left_out))
    was_frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    yield
    gc.unfreeze()
    if was_frozen:
        gc.freeze()


def test_what_is_there_is_left_out_until_the_end() -> None:
    node = Node()
    gone = weakref.ref(node)
    with what_lasts_left_out():
        del node
        gc.collect()
        assert gone() is not None
    gc.collect()
    assert gone() is None


def test_what_was_garbage_before_and_what_becomes_so_later_is_collected() -> None:
    before = weakref.ref(Node())
    with what_lasts_left_out():
        assert before() is None
        after = weakref.ref(Node())
        gc.collect()
        assert after() is None


def test_the_last_of_several_gives_back() -> None:
    with what_lasts_left_out():
        with what_lasts_left_out():
            pass
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()


def test_nothing_is_collected_in_the_first_of_several_blocks_that_pause() -> None:
    first, second = paused(), paused()
    with first:
        assert not gc.isenabled()
        second.__enter__()
    assert gc.isenabled(), "the second one would put it off for ever, and a third one after it"
    with paused():
        assert not gc.isenabled()
        second.__exit__(None, None, None)
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_collector_that_the_application_has_switched_off_stays_so() -> None:
    gc.disable()
    try:
        with paused():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_the_application_has_left_out_stays_so() -> None:
    gc.freeze()
    with what_lasts_left_out():
        pass
    assert gc.get_freeze_count()
