"""Plan files: TOML, one table per plan, with meters and how long its audit logs are kept as keys.

What is wrong in one is named by file, plan and line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Final

from cloud.audit.retention import FLOOR, MAX_DAYS, AuditRetention
from cloud.kernel.errors import ConfigurationError
from cloud.usage.model import MAX_LIMIT, UNLIMITED, Meter, Plan
from src.memory.schemas import MemoryType

RETENTION: Final = "retention"
"""Table of a plan: how many days memories of each type are kept."""
_MOST_DAYS: Final = 36_500
REQUIRED: Final = (Meter.MEMORIES,)
"""Meters that a plan must speak of. The others came later: an older file does not limit them."""
ONLINE: Final = "audit_online_days"
KEPT: Final = "audit_retention_days"
_AUDIT: Final = (ONLINE, KEPT)
"""Keys that are no meters. An older file has none of them: nothing is archived then, and nothing deleted."""


def parse_plans(text: str, source: str, *, audit_minimum_days: int = 0) -> dict[str, Plan]:
    """Plans of a plan file.

    Args:
        text: Its text.
        source: Its name, for the message.
        audit_minimum_days: The least that audit logs have to be kept.

    Raises:
        ConfigurationError: The file is not TOML, names a meter or limit that does not exist, or a plan keeps audit logs
            shorter than has to be; the message names file, plan and line.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        # The parser names line and column, or that the file ends too early.
        raise ConfigurationError(f"{source}: {exc}") from exc
    plans: dict[str, Plan] = {}
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigurationError(
                f"{source}, {_line(text, None, name)}: {name!r} is not a table; write limits below a plan's name in"
                " brackets"
            )
        plans[name] = _plan(text, source, name, values, audit_minimum_days)
    if not plans:
        raise ConfigurationError(f"{source}: no plan in it")
    return plans


def _plan(text: str, source: str, name: str, values: Mapping[str, object], audit_minimum_days: int) -> Plan:
    limits: dict[Meter, int | None] = {}
    retention_days: dict[MemoryType, int] = {}
    days: dict[str, int | None] = {}
    for key, value in values.items():
        place = f"{source}, {_line(text, name, key)}, plan {name!r}"
        if key == RETENTION:
            retention_days = parse_retention(place, value)
        elif key in _AUDIT:
            days[key] = _days(place, key, value, least=FLOOR.days if key == ONLINE else audit_minimum_days)
        else:
            limits.update(parse_limits(place, {key: value}))
    missing = [meter.value for meter in REQUIRED if meter not in limits]
    if missing:
        place = f"{source}, {_line(text, name, None)}, plan {name!r}"
        raise ConfigurationError(f"{place}: no limit for {', '.join(missing)}")
    retention = AuditRetention(days.get(ONLINE), days.get(KEPT))
    if _is_shorter(retention.kept_days, retention.online_days):
        place = f"{source}, {_line(text, name, KEPT)}, plan {name!r}"
        raise ConfigurationError(f"{place}: {KEPT!r} is less than {ONLINE!r}, or that is not set")
    return Plan(name, {meter: limits.get(meter) for meter in Meter}, retention_days, retention)


def parse_limits(source: str, values: Mapping[str, object]) -> dict[Meter, int | None]:
    """Limits as a plan file or an override gives them.

    Args:
        source: Where they stand, for the message.
        values: Meter name to limit; -1 or `None` is unlimited.

    Raises:
        ConfigurationError: An unknown meter, or a limit that is no whole number from 0 to 2^53 - 1.
    """
    limits: dict[Meter, int | None] = {}
    for name, value in values.items():
        try:
            meter = Meter(name)
        except ValueError as exc:
            known = ", ".join((*(meter.value for meter in Meter), *_AUDIT))
            raise ConfigurationError(f"{source}: unknown meter {name!r}; known are: {known}") from exc
        if value is None:
            limits[meter] = None
        elif isinstance(value, bool) or not isinstance(value, int) or not UNLIMITED <= value <= MAX_LIMIT:
            raise ConfigurationError(f"{source}: limit of {name!r} must be a whole number from 0, or -1 for unlimited")
        else:
            limits[meter] = None if value == UNLIMITED else value
    return limits


def parse_retention(source: str, value: object) -> dict[MemoryType, int]:
    """Days that memories are kept, by type, as a plan file gives them.

    Args:
        source: Where they stand, for the message.
        value: Memory type to days; -1 is forever.

    Raises:
        ConfigurationError: It is no table, a memory type is unknown, or its days are no whole number from 1 to 36,500.
    """
    if not isinstance(value, dict):
        raise ConfigurationError(f"{source}: {RETENTION!r} is a table of memory types and days")
    days: dict[MemoryType, int] = {}
    for name, number in value.items():
        try:
            memory_type = MemoryType(name)
        except ValueError as exc:
            known = ", ".join(one.value for one in MemoryType)
            raise ConfigurationError(f"{source}: unknown memory type {name!r}; known are: {known}") from exc
        # Not from 0: what is stored would be gone within the hour.
        whole = isinstance(number, int) and not isinstance(number, bool)
        if not whole or not (number == UNLIMITED or 1 <= number <= _MOST_DAYS):
            raise ConfigurationError(
                f"{source}: {name!r} is kept a whole number of days from 1 to {_MOST_DAYS:,}, or -1 for ever"
            )
        if number != UNLIMITED:
            days[memory_type] = number
    return days


def _days(place: str, key: str, value: object, *, least: int) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not (0 <= value <= MAX_DAYS or value == UNLIMITED):
        raise ConfigurationError(f"{place}: {key!r} must be a whole number of days up to {MAX_DAYS}, or -1 for no end")
    if value == UNLIMITED:
        return None
    if value < least:
        why = " (audit_minimum_days, what the law demands)" if key == KEPT else ""
        raise ConfigurationError(f"{place}: {key!r} is {value}, and must be at least {least}{why}")
    return value


def _is_shorter(days: int | None, than: int | None) -> bool:
    """Whether one time ends before another; `None` has no end."""
    return days is not None and (than is None or days < than)


def _line(text: str, table: str | None, key: str | None) -> str:
    """Where `key` of `table` stands, as "line 7"; without a key the table's header. The text is valid TOML."""
    # The parser tells no positions of what it read. Limits are numbers, so no string spans lines and looks like a key.
    current: str | None = None
    best = 1
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[([^\[\]]+)\]", line)
        if header:
            current = _bare(header[1])
            if current == table:
                best = number
                if key is None:
                    break
            continue
        names = [_bare(part) for part in line.partition("=")[0].split(".")]
        if current is not None:
            names.insert(0, current)
        if names[0] == (table if table is not None else key):
            best = number
        wanted = [name for name in (table, key) if name is not None]
        inline = names[:1] == wanted[:1] and key is not None and re.search(rf"[{{,\s]['\"]?{re.escape(key)}\b", line)
        if names[: len(wanted)] == wanted or inline:
            return f"line {number}"
    return f"line {best}"


def _bare(name: str) -> str:
    return name.strip().strip("\"'")
