"""Which state of a request follows which, and when it is due: data and pure decisions.

    received -> identity verified -> previewed -> (held) -> confirmed
      -> frozen -> keys destroyed -> rows deleted -> (storage rewritten) -> verified -> (certified)

Until it is confirmed it can be rejected or cancelled. From the freeze on there is no way back: a step that fails is
tried again. What was done stays done, so going on redoes the steps before, and the recorded state only moves forward.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from cloud.gdpr.model import ErasureState as S
from cloud.kernel.errors import ErasureRequestError

MONTHS: Final = 1
"""Within one month of receipt (GDPR Art. 12(3))."""
MONTHS_EXTENDED: Final = 3
"""Extended by two further months at most (GDPR Art. 12(3))."""

_REFUSED: Final = (S.REJECTED, S.CANCELLED)
MOVES: Final[Mapping[S, frozenset[S]]] = {
    S.RECEIVED: frozenset({S.IDENTITY_VERIFIED, *_REFUSED}),
    S.IDENTITY_VERIFIED: frozenset({S.IDENTITY_VERIFIED, S.PREVIEWED, *_REFUSED}),
    # Who is verified anew looks anew; what was looked at may be looked at again.
    S.PREVIEWED: frozenset({S.IDENTITY_VERIFIED, S.PREVIEWED, S.HELD, S.CONFIRMED, *_REFUSED}),
    S.HELD: frozenset({S.HELD, S.CONFIRMED, *_REFUSED}),
    # Of whom nothing is kept, that is found out at once.
    S.CONFIRMED: frozenset({S.HELD, S.FROZEN, S.VERIFIED}),
    S.FROZEN: frozenset({S.KEY_DESTROYED, S.FAILED}),
    S.KEY_DESTROYED: frozenset({S.ROWS_DELETED, S.FAILED}),
    S.ROWS_DELETED: frozenset({S.STORAGE_REWRITTEN, S.VERIFIED, S.FAILED}),
    S.STORAGE_REWRITTEN: frozenset({S.VERIFIED, S.FAILED}),
    S.FAILED: frozenset({S.KEY_DESTROYED, S.ROWS_DELETED, S.STORAGE_REWRITTEN, S.VERIFIED, S.FAILED}),
    S.VERIFIED: frozenset({S.CERTIFIED}),
    # A level that is reached later is certified anew.
    S.CERTIFIED: frozenset({S.CERTIFIED}),
    S.REJECTED: frozenset(),
    S.CANCELLED: frozenset(),
}
"""What may follow each state."""

ENDED: Final = frozenset({S.VERIFIED, S.CERTIFIED, S.REJECTED, S.CANCELLED})
"""Nothing is owed to the person any more."""
UNDER_WAY: Final = frozenset({S.FROZEN, S.KEY_DESTROYED, S.ROWS_DELETED, S.STORAGE_REWRITTEN, S.FAILED})
"""The subject is frozen: there is no way back."""
SHORT_WAY: Final = (S.RECEIVED, S.IDENTITY_VERIFIED, S.PREVIEWED, S.CONFIRMED, S.FROZEN)
"""What a call passes through at once that receives, verifies, looks and confirms by its caller's authority."""


def sources(target: S) -> frozenset[S]:
    """The states from which `target` may be reached."""
    return frozenset(state for state, following in MOVES.items() if target in following)


def require_move(state: S, target: S) -> None:
    """Return if `target` may follow `state`.

    Raises:
        ErasureRequestError: It may not; names the state.
    """
    if target not in MOVES[state]:
        raise ErasureRequestError("wrong_state", state=state.value)


def months_later(moment: datetime, months: int) -> datetime:
    """The same day and time so many calendar months later, or the month's last day if it has no such day."""
    year, month = divmod(moment.month - 1 + months, 12)
    year, month = moment.year + year, month + 1
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))
