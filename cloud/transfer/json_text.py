"""JSON texts of strangers: read strictly, with faults that quote nothing."""

from __future__ import annotations

import json
from typing import Final, NoReturn

from cloud.transfer.model import EntryError

_NAME_CHARACTERS: Final = 40


def json_object(data: bytes) -> dict[str, object]:
    """The JSON object (RFC 8259) that `data` is.

    Raises:
        EntryError: It is none.
    """
    try:
        values = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as exc:
        raise EntryError(f"invalid UTF-8 at byte {exc.start + 1}") from None
    except json.JSONDecodeError as exc:
        raise EntryError(f"invalid JSON: {exc.msg} at character {exc.pos + 1}") from None
    except RecursionError:
        raise EntryError("invalid JSON: nested too deeply") from None
    except EntryError:
        raise
    except ValueError:
        raise EntryError("invalid JSON: a number has too many digits") from None
    if not isinstance(values, dict):
        raise EntryError("not a JSON object")
    return values


def shown_name(name: str) -> str:
    """A member's name as a message may show it."""
    return repr(name[:_NAME_CHARACTERS])


def _refuse_constant(name: str) -> NoReturn:
    raise EntryError(f"invalid JSON: {name} is no JSON number")
