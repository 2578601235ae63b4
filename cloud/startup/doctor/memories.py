"""The memories: they move into Pixeltable, which forgets; vectors, erasures and counters are in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from cloud.gdpr.states import UNDER_WAY
from cloud.kernel.errors import SealBrokenError
from cloud.kernel.findings import Finding, Level, ok, problem, warning
from cloud.keys.sealing import AesGcmSealer
from cloud.memory.vectors import Models
from cloud.startup.doctor.context import Check, Context
from cloud.startup.models import embedders
from cloud.storage.pixeltable_env import disconnect_pixeltable, open_pixeltable
from cloud.storage.pixeltable_pool import PixeltablePool
from cloud.storage.pixeltable_tables import table_kinds
from cloud.storage.roles import DATA_DATABASE, MAINTENANCE_ROLE, PIXELTABLE_ROLE, WORKER_ROLE
from cloud.tenancy.system import system_predicate

if TYPE_CHECKING:
    from cloud.memory.pixeltable import PixeltableRows

_WAITING_LOW_S: Final = 60
_WAITING_HIGH_S: Final = 600
_PEOPLE_LOOKED_AT: Final = 20
"""Of each table."""


def intake(context: Context) -> Iterator[Finding]:
    """Accepted memories do not wait long: somebody materializes them."""
    context.require("revision")
    ((waiting, oldest_s),) = context.rows(
        WORKER_ROLE,
        "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(m.stored_at)), 0)::float8"
        " FROM intake i JOIN memories m ON m.memory_id = i.memory_id",
    )
    if oldest_s < _WAITING_LOW_S:
        yield ok("intake", f"{waiting} memories wait to be materialized, the oldest for {oldest_s:.0f} s")
        return
    level = Level.WARNING if oldest_s < _WAITING_HIGH_S else Level.PROBLEM
    yield Finding(
        "intake",
        level,
        f"{waiting} memories wait to be materialized, the oldest for {oldest_s / 60:.0f} minutes: no worker moves them",
        "start the service, or luminescent-cloud worker; if one runs, look into what it logs. The memories are safe"
        " and can be read meanwhile",
    )


def erasures(context: Context) -> Iterator[Finding]:
    """No erasure is stuck on its way."""
    context.require("revision")
    rows = context.rows(
        MAINTENANCE_ROLE,
        "SELECT tenant_id, state, count(*) FROM erasures WHERE state = ANY(:under_way) GROUP BY 1, 2 ORDER BY 1, 2",
        under_way=sorted(state.value for state in UNDER_WAY),
    )
    for tenant_id, state, count in rows:
        yield problem(
            "erasures",
            f"{count} in tenant {tenant_id} stopped at '{state}'; the people stay frozen until then",
            "start the service, which finishes them, or run the same luminescent-cloud gdpr erase again",
        )
    if not rows:
        yield ok("erasures", "none is unfinished")


def counters(context: Context) -> Iterator[Finding]:
    """A tenant's counted stock is what its ledger holds."""
    context.require("revision")
    # One statement sees one moment: a write that is under way is in both or in neither.
    rows = context.rows(
        MAINTENANCE_ROLE,
        "SELECT tenant_id, used, held FROM (SELECT c.tenant_id, c.used, (SELECT count(*) FROM memories m"
        " WHERE m.tenant_id = c.tenant_id AND m.state = 'active') AS held"
        " FROM usage_counters c WHERE c.meter = 'memories') AS compared WHERE used <> held ORDER BY 1",
    )
    for tenant_id, used, held in rows:
        yield problem(
            "counters",
            f"tenant {tenant_id} is counted {used} memories and holds {held}",
            "luminescent-cloud usage reconcile shows and mends it; quota decides by the counter until then",
        )
    if not rows:
        yield ok("counters", "every tenant's stock is what its ledger holds")


def pixeltable(context: Context) -> Iterator[Finding]:
    """Pixeltable opens without listening anywhere, and every table of memories forgets what is deleted."""
    _opened(context)
    kinds = table_kinds(_directory(context))
    versioned = sorted(name for name, operational in kinds.items() if not operational)
    for name in versioned:
        yield problem(
            "pixeltable",
            f"table {name} keeps versions: what is deleted or erased stays in it",
            "it was made by another program; move it away, and the materializer makes a new one",
        )
    if not versioned:
        yield ok("pixeltable", f"{len(kinds)} tables, none keeps versions; nothing listens")


def embeddings(context: Context) -> Iterator[Finding]:
    """The vectors of some people of each table are of the model that is read in it."""
    context.require("revision")
    rows = _opened(context)
    people = context.rows(
        MAINTENANCE_ROLE,
        "SELECT s.tenant_id, s.subject_id::text, p.placement, p.model, p.read_column"
        # Some of every table: a fault is one of a table, and most people may be in another one.
        " FROM placements p CROSS JOIN LATERAL ("
        "SELECT s.tenant_id, s.subject_id FROM subjects s JOIN tenants t USING (tenant_id)"
        " WHERE t.placement = p.placement AND s.state = 'active' AND t.state <> 'closed'"
        " AND EXISTS (SELECT FROM memories m WHERE m.subject_id = s.subject_id AND m.state = 'active')"
        # What waits has no vector yet.
        " AND NOT EXISTS (SELECT FROM intake i WHERE i.subject_id = s.subject_id)"
        " ORDER BY s.subject_id LIMIT :people) s",
        people=_PEOPLE_LOOKED_AT,
    )
    settings = context.settings
    models = Models(context.keyring, AesGcmSealer(), embedders(settings), first=settings.embedder)
    looked_at = foreign = broken = 0
    for tenant_id, subject_id, placement, model, column in people:
        key = context.keyring.subject_key(str(tenant_id), str(subject_id))
        if key is None:
            continue  # `keyring_matches` tells
        predicate = system_predicate(str(tenant_id), "doctor")
        vectorizer = models.of(str(model))
        for row in rows.newer(predicate, str(placement), str(subject_id), since=0, column=str(column)):
            looked_at += 1
            try:
                foreign += vectorizer.open_vector(key.key, row) is None
            except SealBrokenError:
                broken += 1
    if broken:
        yield problem("embeddings", f"{broken} of {looked_at} sealed vectors do not open", "look for a damaged table")
    if foreign:
        yield warning(
            "embeddings",
            f"{foreign} of {looked_at} memories have no vector of the model that is read in their table",
            "luminescent-cloud embeddings status says which; ranking embeds them anew until then, which is slow",
        )
    if not broken and not foreign:
        yield ok("embeddings", f"{looked_at} memories looked at, all have a vector of the model that is read")


def _opened(context: Context) -> PixeltableRows:
    """The data plane, opened in this process."""

    def make() -> PixeltableRows:
        context.require(f"role {PIXELTABLE_ROLE}")
        settings = context.settings
        url = context.server.url(PIXELTABLE_ROLE, DATA_DATABASE)
        if open_pixeltable(settings.home, url, pool_size=settings.data_pool_size):
            # Otherwise a connection that another thread works with would be taken out of the pool.
            context.closing(disconnect_pixeltable)
        from cloud.memory.pixeltable import PixeltableRows
        from cloud.memory.pixeltable_handles import Tables

        pool = PixeltablePool()
        context.closing(pool.close)
        return PixeltableRows(Tables(pool))

    return context.once("pixeltable", make)


def _directory(context: Context) -> str:
    _opened(context)
    from cloud.memory.pixeltable_handles import DIRECTORY

    return DIRECTORY


CHECKS: Final[tuple[Check, ...]] = (intake, erasures, counters, pixeltable, embeddings)
