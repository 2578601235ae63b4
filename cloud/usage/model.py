"""Meters, plans and the decision about a quota, without I/O."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cloud.kernel.errors import ConfigurationError

UNLIMITED: Final = -1
MAX_LIMIT: Final = 2**53 - 1


class Meter(StrEnum):
    """A named counter with a unit.

    `MEMORIES` counts memories in stock: stored and neither deleted, expired nor erased.
    """

    MEMORIES = "memories"


@dataclass(frozen=True, slots=True)
class Plan:
    """A named set of limits.

    Attributes:
        name: Its name.
        limits: Limit of each meter in its unit; `None` is unlimited.
    """

    name: str
    limits: Mapping[Meter, int | None]


@dataclass(frozen=True, slots=True)
class Balance:
    """What a tenant uses of one meter.

    Attributes:
        meter: Which.
        used: In use now.
        limit: At most, or `None` for unlimited.
    """

    meter: Meter
    used: int
    limit: int | None

    @property
    def remaining(self) -> int | None:
        """What is left, or `None` for unlimited."""
        return None if self.limit is None else max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Granted:
    """The request fits."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The request does not fit this balance."""

    balance: Balance


def decide(balance: Balance, requested: int) -> Granted | Denied:
    """Whether `requested` more units fit; the server function decides by the same rule under a lock."""
    if balance.limit is not None and balance.used + requested > balance.limit:
        return Denied(balance)
    return Granted()


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
            known = ", ".join(meter.value for meter in Meter)
            raise ConfigurationError(f"{source}: unknown meter {name!r}; known are: {known}") from exc
        if value is None:
            limits[meter] = None
        elif isinstance(value, bool) or not isinstance(value, int) or not UNLIMITED <= value <= MAX_LIMIT:
            raise ConfigurationError(f"{source}: limit of {name!r} must be a whole number from 0, or -1 for unlimited")
        else:
            limits[meter] = None if value == UNLIMITED else value
    return limits


def parse_plans(text: str, source: str) -> dict[str, Plan]:
    """Plans of a plan file (TOML: one table per plan, meters as keys).

    Raises:
        ConfigurationError: The file is not TOML, or names a meter or limit that does not exist; names file and plan.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{source}: {exc}") from exc
    plans: dict[str, Plan] = {}
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise ConfigurationError(f"{source}: {name!r} is not a table; write limits below a plan's name in brackets")
        limits = parse_limits(f"{source}, plan {name!r}", values)
        missing = [meter.value for meter in Meter if meter not in limits]
        if missing:
            raise ConfigurationError(f"{source}, plan {name!r}: no limit for {', '.join(missing)}")
        plans[name] = Plan(name, limits)
    if not plans:
        raise ConfigurationError(f"{source}: no plan in it")
    return plans
