"""Every name that leaves the process as telemetry: spans, attributes, metrics and their labels.

Where OpenTelemetry's conventions for generative AI have a name, it is used (`gen_ai.*`, in development there); the
rest begins with `luminescent.`. No content, query, user id, subject id or memory id has a name here. The tenant is on
spans and never on a metric: a label with a value for each tenant would tell a metrics backend who the customers are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCOPE: Final = "luminescent-cloud"

GEN_AI_OPERATION: Final = "gen_ai.operation.name"
GEN_AI_STORE: Final = "gen_ai.memory.store.id"
ERROR_TYPE: Final = "error.type"
OPERATION: Final = "luminescent.operation"
TENANT: Final = "luminescent.tenant.id"
OUTCOME: Final = "luminescent.outcome"
REASON: Final = "luminescent.reason"
HOT: Final = "luminescent.hot"
CANDIDATES: Final = "luminescent.candidates"
ATTEMPTS: Final = "luminescent.attempts"
STATEMENTS: Final = "luminescent.statements"
RETURNED: Final = "luminescent.memories.returned"
STORED: Final = "luminescent.memories.stored"
PLACEMENT: Final = "luminescent.placement"
ROWS_INSERTED: Final = "luminescent.rows.inserted"
ROWS_UPDATED: Final = "luminescent.rows.updated"
ROWS_PRESENT: Final = "luminescent.rows.present"
METER: Final = "luminescent.meter"
RESULT: Final = "luminescent.result"
KIND: Final = "luminescent.kind"

MATERIALIZE: Final = "materialize"
WORKER: Final = "worker"

GEN_AI_OPERATIONS: Final[dict[str, str]] = {
    "memory.store": "create_memory",
    "memory.store_many": "create_memory",
    "memory.update": "update_memory",
    "memory.supersede": "update_memory",
    "memory.delete": "delete_memory",
    "memory.retrieve": "search_memory",
    "memory.search": "search_memory",
    "memory.get": "search_memory",
    "memory.list": "search_memory",
}
"""What the conventions call an action; the span of any other has no such attribute."""

DURATION_BUCKETS_S: Final = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of spans."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: Its name.
        kind: `counter`, `histogram`, `gauge` or `observed gauge`.
        unit: Its unit, as UCUM writes it.
        labels: Names of its labels.
        meaning: What it counts.
    """

    name: str
    kind: str
    unit: str
    labels: tuple[str, ...]
    meaning: str


ATTRIBUTES: Final = (
    Attribute(GEN_AI_OPERATION, "`create_memory`, `search_memory`, `update_memory` or `delete_memory`"),
    Attribute(GEN_AI_STORE, "the tenant, whose memories are one store"),
    Attribute(OPERATION, "the action, as the audit log names it, such as `memory.store`"),
    Attribute(TENANT, "the tenant, once it is established"),
    Attribute(OUTCOME, "`allowed`, `denied` or `failed`"),
    Attribute(ERROR_TYPE, "the error's code, or the name of its type for one that is not the product's"),
    Attribute(REASON, "the error's reason code"),
    Attribute(HOT, "whether the person's memories were held open"),
    Attribute(CANDIDATES, "memories that were looked at"),
    Attribute(ATTEMPTS, "readings until nothing had changed in between"),
    Attribute(STATEMENTS, "statements sent to the control plane, repeated ones included"),
    Attribute(RETURNED, "memories returned"),
    Attribute(STORED, "memories stored"),
    Attribute(PLACEMENT, "the table that a batch went to"),
    Attribute(ROWS_INSERTED, "rows that a batch inserted"),
    Attribute(ROWS_UPDATED, "rows that a batch updated"),
    Attribute(ROWS_PRESENT, "rows of a batch that were there already"),
)

OPERATIONS: Final = Metric(
    "luminescent.operations", "counter", "{operation}", (OPERATION, OUTCOME, ERROR_TYPE), "operations that ended"
)
DURATION: Final = Metric(
    "luminescent.operation.duration", "histogram", "s", (OPERATION, OUTCOME), "how long operations took"
)
QUOTA_DENIALS: Final = Metric("luminescent.quota.denials", "counter", "{write}", (METER,), "writes that did not fit")
HOT_READS: Final = Metric("luminescent.hot_tier.reads", "counter", "{read}", (RESULT,), "look-ups, `hit` or `miss`")
HOT_EVICTIONS: Final = Metric(
    "luminescent.hot_tier.evictions", "counter", "{person}", (), "people who had to leave for others"
)
HOT_BYTES: Final = Metric("luminescent.hot_tier.size", "observed gauge", "By", (), "what is held open, about")
KEY_READS: Final = Metric(
    "luminescent.keyring.cache.reads", "counter", "{read}", (RESULT,), "look-ups of keys, `hit` or `miss`"
)
BACKLOG: Final = Metric("luminescent.intake.backlog", "gauge", "{memory}", (), "memories that wait for Pixeltable")
BACKLOG_AGE: Final = Metric("luminescent.intake.age", "gauge", "s", (), "how long the oldest of them has waited")
BATCHES: Final = Metric("luminescent.materializer.batches", "counter", "{batch}", (), "batches moved")
ROWS: Final = Metric(
    "luminescent.materializer.rows", "counter", "{row}", (KIND,), "rows moved: `inserted`, `updated`, `present`"
)
BATCH_DURATION: Final = Metric("luminescent.materializer.batch.duration", "histogram", "s", (), "how long batches took")

METRICS: Final = (
    OPERATIONS,
    DURATION,
    QUOTA_DENIALS,
    HOT_READS,
    HOT_EVICTIONS,
    HOT_BYTES,
    KEY_READS,
    BACKLOG,
    BACKLOG_AGE,
    BATCHES,
    ROWS,
    BATCH_DURATION,
)


def markdown() -> str:
    """Both tables, as `docs/observability.md` has them."""
    lines = ["| attribute | meaning |", "|---|---|"]
    lines += [f"| `{attribute.name}` | {attribute.meaning} |" for attribute in ATTRIBUTES]
    lines += ["", "| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "–"
        lines.append(f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.meaning} |")
    return "\n".join(lines)
