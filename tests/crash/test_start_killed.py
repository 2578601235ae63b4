"""A start is killed at random, again and again, on a home that never was whole: the next one makes it so."""

from __future__ import annotations

import random
import time

import pytest

from tests.crash.conftest import opened
from tests.crash.laws import assert_whole

pytestmark = pytest.mark.crash

KILLS = 6
LONGEST_START_S = 2.4
"""About what a first start takes on an idle machine, so that the kills fall all over it."""


def test_a_home_whose_every_start_was_killed_opens_all_the_same() -> None:
    chance = random.Random(7)
    with opened(prepared=False) as installation:
        for kill in range(KILLS):
            child = installation.another()
            child.say("open", home=str(installation.home), settings=dict(installation.settings))
            time.sleep(LONGEST_START_S * (kill + chance.random()) / KILLS)
            child.kill()
        child = installation.child()
        child.ask("tenant", tenant="acme", limit=10)
        child.ask("store", tenant="acme", user="alice", contents=["it works"])
        assert_whole(installation, "acme", ("alice",))
