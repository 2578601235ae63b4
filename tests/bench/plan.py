"""How much is measured: the whole, or a little of everything."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of a run.

    Attributes:
        people: People of the side-by-side part.
        each: Memories of each, everywhere.
        rounds: Turns that each contender has at each operation.
        seconds: How long a turn is at most, once every caller has made a call.
        most: Calls that a caller makes in a turn at most.
        callers: Numbers of callers at a time.
        scale_people: People of the part in which this project is alone with the physical limits.
        throughput_s: Seconds of each lasting load.
        pace_per_s: Stores beside the reads.
        pace_s: Seconds of each window of reads beside stores, and without.
        pace_windows: How many of each: alone, beside stores, and beside them with the worker held.
        batches: Batches of `store_many`.
        batch: Memories of a batch.
    """

    people: int = 5
    each: int = 1_000
    rounds: int = 5
    seconds: float = 1.0
    most: int = 400
    callers: tuple[int, ...] = (1, 8, 32)
    scale_people: int = 100
    throughput_s: float = 60.0
    pace_per_s: int = 200
    pace_s: float = 10.0
    pace_windows: int = 3
    batches: int = 30
    batch: int = 1_000


FULL = Plan()
QUICK = Plan(
    people=2,
    each=60,
    rounds=2,
    seconds=0.1,
    most=5,
    callers=(1, 8),
    scale_people=4,
    throughput_s=2.0,
    pace_s=1.0,
    pace_windows=1,
    batches=2,
    batch=100,
)
