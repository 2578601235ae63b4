"""Handles on the tables of memories: a placement's table by name, and what of it some tenants may see.

One operational table per placement, in the directory `luminescent`. It has two computed columns over the sealed
envelope, `embedding` and `embedding_2`, each of one model or of none, so Pixeltable keeps both consistent while a model
is exchanged (`cloud.memory.pixeltable_columns`).

Envelopes are kept as base64 text. Pixeltable writes binary cells of more than 512 bytes to files of its own, which no
delete and no erasure would reach; text stays in the row whatever its length. A sealed vector is shorter than that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final, TypeVar

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
FIRST_COLUMN: Final = "embedding"
SECOND_COLUMN: Final = "embedding_2"
BATCH: Final = 256
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


@pxt.udf(batch_size=BATCH)  # type: ignore[untyped-decorator]
def sealed_embedding_of(
    tenant_id: Batch[pxt.String],
    subject_id: Batch[pxt.String],
    memory_id: Batch[pxt.String],
    envelope: Batch[pxt.String],
    model: Batch[pxt.String],
) -> Batch[pxt.Binary | None]:
    """Sealed vectors of sealed envelopes, of a model by name (see `Models.column`); the empty name computes nothing.

    Raises:
        ConfigurationError: This process does not know the model: no row of the batch is written.
    """
    models = installed()
    if models is None:
        return [None] * len(envelope)
    # A constant of the column's expression, repeated for each row.
    return models.column(model[0], tenant_id, subject_id, memory_id, envelope)


def embedding_of(table: Table, model: str) -> Expr:
    """The expression of a computed column of `model`."""
    return sealed_embedding_of(table.tenant_id, table.subject_id, table.memory_id, table.envelope, model)


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

    @property
    def all(self) -> Expr:
        """The condition that every row of these tenants meets, and no other."""
        return self._tenants

    @classmethod
    def of_row(cls, table: Table, row: SealedRow) -> TenantTable:
        """The table as the tenant of a row may see it that is about to be written for it."""
        made = cls.__new__(cls)
        made.table = table
        made._tenants = table.tenant_id == row.tenant_id
        return made

    def where(self, condition: Expr) -> Expr:
        """`condition`, for these tenants alone."""
        return self._tenants & condition


class Tables:
    """The tables of placements, opened once per process, and calls on them, which run on the pool's threads.

    Args:
        pool: The threads.
        recover: Called after a failed attempt with the seconds that are left; the embedded server uses it to start
            again.
        model_of: The model that is read in a placement, which a new table is made with.
    """

    def __init__(
        self,
        pool: PixeltablePool,
        *,
        recover: Callable[[float], None] | None = None,
        model_of: Callable[[str], str] | None = None,
    ) -> None:
        self._pool = pool
        self._recover = recover
        self._model_of = model_of or (lambda _: _first_model())
        self._tables: dict[str, Table] = {}
        self._named: set[str] = set()
        self._lock = threading.Lock()

    def run(self, call: Callable[[], _T], *, deadline_s: float | None = None) -> _T:
        """What `call` returns. Even naming a column asks the catalog, so all of it is translated."""

        def whole() -> _T:
            with translated():
                return call()

        return self._pool.run_blocking(whole, deadline_s=deadline_s)

    def repeatable(self, call: Callable[[], _T], *, deadline_s: float | None = None) -> _T:
        """What `call`, which may be done again, returns; a restart of the server is bridged."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS) | stop_after_delay(_RETRY_WITHIN_S),
            wait=wait_exponential_jitter(multiplier=0.05, max=0.5, jitter=0.05),
            retry=retry_if_exception_type(ProviderUnavailableError),
            before_sleep=self._before_next,
            reraise=True,
        )
        answer: _T = retrying(self.run, call, deadline_s=deadline_s)
        return answer

    def _before_next(self, state: RetryCallState) -> None:
        if self._recover is not None:
            self._recover(max(0.0, _RETRY_WITHIN_S - (state.seconds_since_start or 0.0)))

    def written(self, placement: str) -> Table:
        """The table of a placement, to be written to: complete, and its first column of a model by name."""
        table = self.existing(placement) or self._made(placement)
        with self._lock:
            known = placement in self._named
        if not known:
            with translated():
                if "sealed_embedding(" in str(table.get_metadata()["columns"][FIRST_COLUMN]["computed_with"]):
                    # Of the first release: whatever model a process was set to. From here on it is this one.
                    model = self._model_of(placement)
                    table.alter_computed_column(recompute=False, **{FIRST_COLUMN: embedding_of(table, model)})
            with self._lock:
                self._named.add(placement)
        return table

    def existing(self, placement: str, *, column: str = FIRST_COLUMN) -> Table | None:
        """The table of a placement, if it was made; a handle that knows `column`, if the table has it."""
        with self._lock:
            table = self._tables.get(placement)
        # A handle does not hear of a column that was added since, in another process or thread.
        if table is None or column not in table.columns():
            with translated():
                table = pxt.get_table(f"{DIRECTORY}.{placement}", if_not_exists="ignore")
            if table is None or not _complete(table):
                return None
            assert_operational(table)
            with self._lock:
                self._tables[placement] = table
        return table

    def physical(self, placements: Sequence[str]) -> list[str]:
        """Names in the data database of the tables of these placements, as far as they were made."""

        def call() -> list[str]:
            made = (pxt.get_table(f"{DIRECTORY}.{name}", if_not_exists="ignore") for name in placements)
            return [f"tbl_{table.get_metadata()['id'].hex}" for table in made if table is not None]

        return self.repeatable(call)

    def _made(self, placement: str) -> Table:
        """The table, with its column and index; a process that was killed while making it is continued."""
        path = f"{DIRECTORY}.{placement}"
        with translated():
            pxt.create_dir(DIRECTORY, if_exists="ignore")
        table = create_operational_table(path, SCHEMA, ["memory_id"])
        with translated():
            table.add_btree_index("subject_id", idx_name="by_subject", if_exists="ignore")
            first, second = embedding_of(table, self._model_of(placement)), embedding_of(table, "")
            table.add_computed_column(**{FIRST_COLUMN: first}, if_exists="ignore")
            table.add_computed_column(**{SECOND_COLUMN: second}, if_exists="ignore")
        with self._lock:
            self._tables[placement] = table
        return table


def _complete(table: Table) -> bool:
    # A table without it was left by a process that was killed, and only a writer completes it. The second column may be
    # missing, as in tables of the first release: a change of models adds it.
    return FIRST_COLUMN in table.columns()


def _first_model() -> str:
    models = installed()
    return models.first if models is not None else ""
