"""Times on the command line."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from src.memory.schemas import as_utc


def parse_moment(text: str) -> datetime:
    """A date or time in ISO 8601, in UTC unless it names an offset.

    Raises:
        typer.BadParameter: It is neither.
    """
    try:
        return as_utc(datetime.fromisoformat(text))
    except ValueError as exc:
        raise typer.BadParameter("a time is ISO 8601, such as 2026-01-31 or 2026-01-31T08:00:00Z") from exc


Moment = Annotated[
    datetime | None,
    typer.Option(parser=parse_moment, metavar="TIME", help="ISO 8601; UTC unless it names an offset."),
]
