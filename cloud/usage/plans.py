"""Plans: read from a file, written to the control plane, where the writes' transaction reads them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from sqlalchemy.dialects.postgresql import insert

from cloud.kernel.errors import ConfigurationError
from cloud.storage.engine import ControlEngine
from cloud.storage.metadata import plan_limits
from cloud.usage.model import Plan
from cloud.usage.plan_file import parse_plans


def read_plans(path: Path | None, *, audit_minimum_days: int = 0) -> dict[str, Plan]:
    """Plans of the file at `path`, or the shipped ones.

    Args:
        path: The file.
        audit_minimum_days: The least that audit logs have to be kept.

    Raises:
        ConfigurationError: The file cannot be read or is wrong; names the place.
    """
    minimum = {"audit_minimum_days": audit_minimum_days}
    if path is None:
        return parse_plans((files("cloud.usage") / "plans.toml").read_text("utf-8"), "plans.toml", **minimum)
    try:
        return parse_plans(path.read_text("utf-8"), str(path), **minimum)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"the plan file {path} cannot be read") from exc


def write_plans(engine: ControlEngine, plans: Mapping[str, Plan]) -> None:
    """Make the control plane's limits those of `plans`. A plan that is gone from the file stays for who has it."""
    values = [
        {"plan": plan.name, "meter": meter.value, "limit_value": limit}
        for plan in plans.values()
        for meter, limit in plan.limits.items()
    ]
    statement = insert(plan_limits).values(values)
    statement = statement.on_conflict_do_update(
        index_elements=["plan", "meter"],
        set_={"limit_value": statement.excluded.limit_value},
        where=plan_limits.c.limit_value.is_distinct_from(statement.excluded.limit_value),
    )
    engine.transaction(lambda connection: connection.execute(statement))
