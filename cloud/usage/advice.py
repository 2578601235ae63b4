"""Advice before a write, from balances that this process saw a moment ago; the write's transaction decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloud.kernel.access import Action
from cloud.usage.model import Balance, Denied, Meter, decide

_TRUST_S: Final = 1.0
_ROOMY: Final[Mapping[Meter, int]] = {
    Meter.MEMORIES: 1_000,
    Meter.STORED_BYTES: 64 * 2**20,
    Meter.MEMORIES_PER_SUBJECT: 1_000,
    Meter.WRITES: 1_000,
    Meter.READS: 1_000,
    Meter.TOKENS: 1_000_000,
}
"""Units that must be left for a remembered balance to be trusted."""

WRITES: Final = frozenset({Action.MEMORY_STORE.value, Action.MEMORY_STORE_MANY.value, "store", "ingest", "write"})
READS: Final = frozenset(
    {
        Action.MEMORY_RETRIEVE.value,
        Action.MEMORY_SEARCH.value,
        Action.MEMORY_GET.value,
        "query",
        "search",
        "retrieve",
        "semantic_search",
    }
)
_TOKENS: Final = frozenset({Action.USAGE_RESERVE.value, Action.USAGE_TRACK.value, "generate"})
WRITE_METERS: Final = (Meter.MEMORIES, Meter.STORED_BYTES, Meter.WRITES)


def meters_of(operation: str) -> tuple[Meter, ...]:
    """Meters of which an operation uses at least one unit, whoever it is about; empty for one that uses none."""
    if operation in WRITES:
        return WRITE_METERS
    if operation in READS:
        return (Meter.READS,)
    return (Meter.TOKENS,) if operation in _TOKENS else ()


def first_full(balances: Mapping[Meter, Balance], meters: Sequence[Meter]) -> Balance | None:
    """The first of these meters that one more unit does not fit."""
    for meter in meters:
        match decide(balances[meter], 1):
            case Denied(balance=full):
                return full
            case _:
                continue
    return None


@dataclass(frozen=True, slots=True)
class _Seen:
    balance: Balance
    at_s: float


class SeenBalances:
    """The balances that this process saw last, by tenant and meter. Safe for threads."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[Meter, _Seen]] = {}
        self._lock = threading.Lock()

    def note(self, tenant_id: str, balances: Sequence[Balance]) -> None:
        """Remember these as they are now."""
        now_s = time.monotonic()
        with self._lock:
            seen = self._seen.setdefault(tenant_id, {})
            seen.update({balance.meter: _Seen(balance, now_s) for balance in balances})

    def roomy(self, tenant_id: str, meters: Sequence[Meter]) -> dict[Meter, Balance] | None:
        """These balances, if all were seen within the last second with so much left that they may be trusted."""
        oldest_s = time.monotonic() - _TRUST_S
        with self._lock:
            seen = dict(self._seen.get(tenant_id, ()))
        found = {}
        for meter in meters:
            one = seen.get(meter)
            if one is None or one.at_s < oldest_s:
                return None
            remaining = one.balance.remaining
            if remaining is not None and remaining < _ROOMY[meter]:
                return None
            found[meter] = one.balance
        return found

    def last(self, tenant_id: str) -> dict[Meter, Balance]:
        """Whatever was seen last, however long ago."""
        with self._lock:
            return {meter: one.balance for meter, one in self._seen.get(tenant_id, {}).items()}
