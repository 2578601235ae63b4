"""How the command and the worker log: lines for people or for machines, without what people stored.

Our own messages hold ids, codes and numbers. Those of other libraries may quote a value, so of them only what their
authors wrote is kept: the template without its arguments, or the place where it has none to tell them apart. Nobody's
exceptions are shown with their text; their kinds and places are. Importing the library configures nothing.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cloud.kernel.context import current_trace_id

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_OURS: Final = ("cloud", "src", "migrations")
_PLACES: Final = 6


def configure_logs(form: LogFormat, level: LogLevel) -> None:
    """Log to standard error from now on, in place of what was configured before by this."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    for before in [one for one in root.handlers if isinstance(one, _Handler)]:
        root.removeHandler(before)
    root.addHandler(handler)
    root.setLevel(level.upper())


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Ours, so that it can be told from an application's own; standard error is what it is when a line is written."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        error = _error(record)
        return f"{record.levelname.lower()}: {_message(record)}" + (f" [{error}]" if error else "")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            "trace_id": current_trace_id(),
        }
        error = _error(record)
        return json.dumps(line if error is None else {**line, "error": error}, ensure_ascii=False)


def _message(record: logging.LogRecord) -> str:
    if record.name.partition(".")[0] in _OURS:
        return record.getMessage()
    if record.args and isinstance(record.msg, str):
        return record.msg
    # It may have been put together from values before it came here.
    return f"a message of {record.name} at {record.filename}:{record.lineno}"


def _error(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[0] is None:
        return None
    kind, _, trace = record.exc_info
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
    return f"{kind.__name__} at {' < '.join(reversed(places[-_PLACES:])) or 'start'}"
