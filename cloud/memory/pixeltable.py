"""`Rows` on Pixeltable: the only module that queries it, through a handle that cannot be built without a tenant.

One operational table per placement, in the directory `luminescent`. The embedding is a computed column over the
sealed envelope, so Pixeltable keeps it consistent and fills it when it is added.

Envelopes are kept as base64 text. Pixeltable writes binary cells of more than 512 bytes to files of its own, which no
delete and no erasure would reach; text stays in the row whatever its length. A sealed vector is shorter than that.
"""

from __future__ import annotations

import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pixeltable as pxt
from pixeltable.func import Batch
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential_jitter,
)

from cloud.kernel.errors import ProviderUnavailableError, TenantIsolationError
from cloud.kernel.scope import TenantPredicate
from cloud.memory.model import SealedRow
from cloud.memory.vectors import installed
from cloud.storage.pixeltable_pool import PixeltablePool
from cloud.storage.pixeltable_tables import assert_operational, create_operational_table, translated

if TYPE_CHECKING:
    from pixeltable import Table
    from pixeltable.exprs import Expr

DIRECTORY: Final = "luminescent"
_BATCH: Final = 256
_ATTEMPTS: Final = 3
_RETRY_WITHIN_S: Final = 8.0

_T = TypeVar("_T")

SCHEMA: Final[Mapping[str, object]] = {
    "memory_id": pxt.String,
    "tenant_id": pxt.String,
    "subject_id": pxt.String,
    "revision": pxt.Int,
    "generation": pxt.Int,
    "memory_type": pxt.String,
    "confidence": pxt.Float,
    "created_at": pxt.Timestamp,
    "expires_at": pxt.Timestamp | None,
    "envelope": pxt.String,
}


@pxt.udf(batch_size=_BATCH)  # type: ignore[untyped-decorator]
def sealed_embedding(
    tenant_id: Batch[pxt.String],
    subject_id: Batch[pxt.String],
    memory_id: Batch[pxt.String],
    envelope: Batch[pxt.String],
) -> Batch[pxt.Binary | None]:
    """Sealed vectors of sealed envelopes; never raises (see `Vectorizer.seal_batch`)."""
    vectorizer = installed()
    if vectorizer is None:
        return [None] * len(envelope)
    return vectorizer.seal_batch(tenant_id, subject_id, memory_id, [b64decode(text) for text in envelope])


class TenantTable:
    """A placement's table as some tenants may see it: every predicate names them.

    Args:
        table: The table.
        predicates: The tenants, at least one.

    Raises:
        TenantIsolationError: No predicate, or something that is none.
    """

    def __init__(self, table: Table, predicates: Sequence[TenantPredicate]) -> None:
        if not predicates or not all(isinstance(predicate, TenantPredicate) for predicate in predicates):
            raise TenantIsolationError("missing_scope")
        self.table = table
        self._tenants: Expr = reduce(or_, (table.tenant_id == p.tenant_id for p in predicates))

    def where(self, condition: Expr) -> Expr:
        """`condition`, for these tenants alone."""
        return self._tenants & condition


class PixeltableRows:
    """`Rows` on Pixeltable. Each call runs on the pool's threads, with its deadline.

    Args:
        pool: The threads.
        recover: Called after a failed attempt with the seconds that are left; the embedded server uses it to start
            again.
    """

    def __init__(self, pool: PixeltablePool, *, recover: Callable[[float], None] | None = None) -> None:
        self._pool = pool
        self._recover = recover
        self._tables: dict[str, Table] = {}
        self._lock = threading.Lock()

    def newer(self, predicate: TenantPredicate, placement: str, subject_id: str, *, since: int) -> list[SealedRow]:
        def call() -> list[SealedRow]:
            table = self._existing(placement)
            if table is None:
                return []
            mine = TenantTable(table, (predicate,))
            found = (
                table.where(mine.where((table.subject_id == subject_id) & (table.generation > since)))
                .select(
                    table.memory_id,
                    table.revision,
                    table.generation,
                    table.memory_type,
                    table.confidence,
                    table.created_at,
                    table.expires_at,
                    table.envelope,
                    table.embedding,
                )
                .collect()
            )
            return [
                SealedRow(
                    tenant_id=predicate.tenant_id,
                    subject_id=subject_id,
                    **{**row, "envelope": b64decode(row["envelope"])},
                )
                for row in found
            ]

        return self._repeatable(call)

    def revisions(
        self, predicates: Sequence[TenantPredicate], placement: str, memory_ids: Collection[str]
    ) -> dict[str, int]:
        def call() -> dict[str, int]:
            table = self._existing(placement)
            if table is None or not memory_ids:
                return {}
            mine = TenantTable(table, predicates)
            found = (
                table.where(mine.where(table.memory_id.isin(list(memory_ids))))
                .select(table.memory_id, table.revision)
                .collect()
            )
            return {row["memory_id"]: row["revision"] for row in found}

        return self._repeatable(call)

    def write(self, placement: str, inserts: Sequence[SealedRow], updates: Sequence[SealedRow]) -> None:
        def call() -> None:
            table = self._existing(placement) or self._made(placement)
            if inserts:
                _check(table.insert([_record(row) for row in inserts]))
            if updates:
                _check(table.batch_update([_record(row) for row in updates]))

        self._run(call)

    def remove_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        def call() -> int:
            table = self._existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            status = table.delete(where=mine.where(table.subject_id == subject_id))
            return int(status.row_count_stats.del_rows)

        return self._repeatable(call)

    def count_subject(self, predicate: TenantPredicate, placement: str, subject_id: str) -> int:
        def call() -> int:
            table = self._existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            return int(table.where(mine.where(table.subject_id == subject_id)).count())

        return self._repeatable(call)

    def remove_tenant(self, predicate: TenantPredicate, placement: str) -> int:
        def call() -> int:
            table = self._existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            status = table.delete(where=mine.where(table.tenant_id == predicate.tenant_id))
            return int(status.row_count_stats.del_rows)

        return self._repeatable(call)

    def count_tenant(self, predicate: TenantPredicate, placement: str) -> int:
        def call() -> int:
            table = self._existing(placement)
            if table is None:
                return 0
            mine = TenantTable(table, (predicate,))
            return int(table.where(mine.where(table.tenant_id == predicate.tenant_id)).count())

        return self._repeatable(call)

    def _run(self, call: Callable[[], _T]) -> _T:
        """What `call` returns. Even naming a column asks the catalog, so all of it is translated."""

        def whole() -> _T:
            with translated():
                return call()

        return self._pool.run_blocking(whole)

    def _repeatable(self, call: Callable[[], _T]) -> _T:
        """What `call`, which may be done again, returns; a restart of the server is bridged."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_RETRY_WITHIN_S),
            wait=wait_exponential_jitter(multiplier=0.05, max=0.5, jitter=0.05),
            retry=retry_if_exception_type(ProviderUnavailableError),
            before_sleep=self._before_next,
            reraise=True,
        )
        answer: _T = retrying(self._run, call)
        return answer

    def _before_next(self, state: RetryCallState) -> None:
        if self._recover is not None:
            self._recover(max(0.0, _RETRY_WITHIN_S - (state.seconds_since_start or 0.0)))

    def _existing(self, placement: str) -> Table | None:
        with self._lock:
            table = self._tables.get(placement)
        if table is None:
            with translated():
                table = pxt.get_table(f"{DIRECTORY}.{placement}", if_not_exists="ignore")
            if table is None or not _complete(table):
                return None
            assert_operational(table)
            with self._lock:
                self._tables[placement] = table
        return table

    def _made(self, placement: str) -> Table:
        """The table, with its column and index; a process that was killed while making it is continued."""
        path = f"{DIRECTORY}.{placement}"
        with translated():
            pxt.create_dir(DIRECTORY, if_exists="ignore")
        table = create_operational_table(path, SCHEMA, ["memory_id"])
        with translated():
            table.add_btree_index("subject_id", idx_name="by_subject", if_exists="ignore")
            table.add_computed_column(
                embedding=sealed_embedding(table.tenant_id, table.subject_id, table.memory_id, table.envelope),
                if_exists="ignore",
            )
        with self._lock:
            self._tables[placement] = table
        return table


def _complete(table: Table) -> bool:
    # The column comes last: a table without it was left by a process that was killed, and only a writer completes it.
    return "embedding" in table.columns()


def _record(row: SealedRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in SCHEMA} | {"envelope": b64encode(row.envelope).decode("ascii")}


def _check(status: Any) -> None:
    # Errors of computed columns do not raise by themselves; a row without a vector would be one that nothing finds.
    if status.row_count_stats.num_excs:
        raise ProviderUnavailableError("pixeltable", reason="could not compute a column")
