"""Opens an installation: storage, roles, migrations, keys, and the parts that memories live in."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from cloud.audit.postgres import PostgresAuditStore
from cloud.audit.service import CloudAuditLogger
from cloud.backup.marker import RestoreMarker
from cloud.backup.service import DataBackups, NoOperators
from cloud.custody.postgres import PostgresCustodyStore
from cloud.custody.reconciling import admit_keyring
from cloud.gdpr.ledger import FileErasureLedger
from cloud.gdpr.replay import Replayed
from cloud.gdpr.rewriting import PostgresRewriter
from cloud.gdpr.scan import Scanner
from cloud.gdpr.windows import Windows
from cloud.kernel.clock import system_clock
from cloud.kernel.collector import what_lasts_left_out
from cloud.kernel.errors import LuminescentError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import TenantPredicate
from cloud.keys.rootkeys import RootKeys
from cloud.keys.sealing import AesGcmSealer
from cloud.keys.sqlite import FileKeyring
from cloud.memory.config import PixeltableConfig
from cloud.memory.hot import HotTier
from cloud.memory.managed_ports import Retention
from cloud.memory.managed_postgres import PostgresManagedLedger, PostgresPurgeLedger, PostgresRetentionLedger
from cloud.memory.materializer import Materializer
from cloud.memory.moves import Mover
from cloud.memory.placement_store import PlacementStore, adopt, model_of
from cloud.memory.ports import Columns
from cloud.memory.purge import Purger
from cloud.memory.read_times import ReadTimes
from cloud.memory.retaining import Retainer
from cloud.memory.vectors import Models, install, uninstall
from cloud.settings import CloudSettings
from cloud.startup.auditing import AuditProofs, build_proofs
from cloud.startup.backups import build_backups
from cloud.startup.engines import Engines, open_engines
from cloud.startup.erasures import build_replay, erasure_ledger
from cloud.startup.identity import IdentityParts, build_identity
from cloud.startup.keyring import find_root_keys, keyring_directory
from cloud.startup.models import check_models, embedders
from cloud.startup.servers import bring_up_to_date, open_server, refusals_recorded
from cloud.storage.embedded import programs_directory
from cloud.storage.engine import ControlEngine
from cloud.storage.home import Home, open_home
from cloud.storage.pixeltable_env import disconnect_pixeltable, open_pixeltable
from cloud.storage.pixeltable_pool import PixeltablePool
from cloud.storage.presence import Presence
from cloud.storage.roles import DATA_DATABASE
from cloud.storage.server import Server
from cloud.tenancy.system import system_predicate
from cloud.usage.model import Plan
from cloud.usage.plans import read_plans, write_plans

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What is other than for serving, while a backup is restored.

    Attributes:
        restoring: Whether it is opened by the restore that is under way.
        without_ledger: Whether the erasure ledger is lost, and begins anew.
        may_finish: Whether erasures that were under way may be finished, which destroys keys.
        shares_keyring: Whether the service may have the keyring open meanwhile, for other databases.
        keyring: How the keyring is opened.
    """

    restoring: bool = False
    without_ledger: bool = False
    may_finish: bool = True
    shares_keyring: bool = False
    keyring: type[FileKeyring] = FileKeyring

    def check(self, settings: CloudSettings) -> None:
        """Nothing is served from databases that are being restored.

        Raises:
            ConfigurationError: They are.
        """
        if not self.restoring:
            RestoreMarker(settings.home).check()


@dataclass(slots=True)
class Installation:
    """What every process of an installation opens: storage, keys and the parts of the memory feature."""

    settings: CloudSettings
    plans: dict[str, Plan]
    engines: Engines
    config: PixeltableConfig
    keyring: FileKeyring
    root_keys: RootKeys
    columns: Columns
    tables_of: Callable[[Sequence[str]], Sequence[str]]
    server: Server
    identity: IdentityParts
    proofs: AuditProofs
    presence: Presence
    ledger: FileErasureLedger
    replayed: Replayed
    stack: contextlib.ExitStack = field(repr=False)

    def logger(self) -> CloudAuditLogger:
        """A logger of this process; whoever reads the log through it gives it a door of its own."""
        return _logger(self.engines, self.keyring, self.presence)

    def materializer(self) -> Materializer:
        """The loop that moves memories into Pixeltable."""
        return Materializer(
            self.engines.worker,
            self.config.rows,
            system_predicates("materializer"),
            chores=(self.identity.refusals.report,),
            hourly=self._hourly,
        )

    def _hourly(self) -> None:
        """What is due now and then, beside materializing; what fails is left for the next time, the rest is done."""
        chores: tuple[tuple[str, Callable[[], object]], ...] = (
            ("memories that were kept long enough are purged later", self.purger().run),
            ("memories that plans keep no longer are deleted later", self.retainer().run),
            ("backups that have expired are deleted later", lambda: self._backups().expire_due()),
        )
        for what, chore in chores:
            try:
                chore()
            except LuminescentError as error:
                # It would end the materializer, which begins with this again at its next start.
                _log.error("%s: %s", what, error)  # noqa: TRY400 - the text says it all

    def _backups(self) -> DataBackups:
        keys, audit = self.proofs.keys, self.logger()
        return build_backups(
            self.settings, self.server, self.engines, self.keyring, keys, self.ledger, NoOperators(), audit
        )

    def placements(self) -> PlacementStore:
        """Which tables there are, and which moves."""
        return PlacementStore(self.engines.maintenance)

    def mover(self) -> Mover:
        """Moves tenants between tables."""
        return Mover(self.engines.maintenance, self.placements(), self.config.rows, system_predicates("mover"))

    def purger(self) -> Purger:
        """Removes for good what was kept long enough."""
        maintenance = self.engines.maintenance
        retention = retention_of(self.settings)
        predicates = system_predicates("purge")
        return Purger(PostgresPurgeLedger(maintenance), self.config.rows, maintenance, predicates, retention)

    def retainer(self) -> Retainer:
        """Deletes what the plans keep no longer."""
        ledger = PostgresRetentionLedger(self.engines.maintenance)
        rules = {plan.name: plan.retention_days for plan in self.plans.values()}
        return Retainer(ledger, self.config.rows, rules, system_predicates("retention"), self.config.clock)

    def rewriter(self) -> PostgresRewriter:
        """Rewrites what deleted rows have left in files and in the write-ahead log."""
        settings = self.settings
        at_once = settings.rewrite_at_once
        return PostgresRewriter(
            self.server.url,
            self.tables_of,
            self.engines.maintenance,
            self.config.clock,
            max_wait_ms=settings.rewrite_max_wait_ms,
            at_once=settings.control_url is None if at_once is None else at_once,
            windows=Windows.parse(settings.rewrite_windows),
        )

    def scanner(self) -> Scanner:
        """Looks for fingerprints in the home and the databases."""
        is_embedded = self.settings.control_url is None
        index = self.keyring.files.index
        return Scanner(
            self.settings.home,
            self.server.url,
            is_embedded=is_embedded,
            waldump=programs_directory() / "pg_waldump" if is_embedded else None,
            through={index.path: index.stored},
        )

    def close(self) -> None:
        """Give back everything, in the reverse order of taking it."""
        self.stack.close()


def open_installation(settings: CloudSettings, opening: Opening | None = None) -> Installation:
    """Open, check and migrate the installation at `settings.home`, made when missing.

    Args:
        settings: How it is run.
        opening: What is other than for serving, while a backup is restored.

    Raises:
        ConfigurationError: It cannot be opened; the message says what to change.
        ProviderUnavailableError: A part of it did not answer in time.
    """
    with contextlib.ExitStack() as stack:
        # Also where the server is an external one: keys and locks are here.
        home = open_home(settings.home)
        presence = Presence(home.locks)
        # The last to be given back: until then it may end what it began.
        stack.callback(presence.close)
        opening = opening or Opening()
        opening.check(settings)
        server = open_server(settings)
        stack.callback(server.close)
        stack.callback(disconnect_pixeltable)
        with refusals_recorded(server):
            return _opened(settings, home, presence, server, stack, opening)


def _opened(
    settings: CloudSettings,
    home: Home,
    presence: Presence,
    server: Server,
    stack: contextlib.ExitStack,
    opening: Opening,
) -> Installation:
    """The installation on a server that is open; what it takes is given back by `stack` until it is returned."""
    # Before the schema is touched: who has to go back to mend the file must not find an upgraded database.
    plans = read_plans(settings.plans_file, audit_minimum_days=settings.audit_minimum_days)
    bring_up_to_date(settings, server)
    engines = open_engines(settings, server)
    stack.callback(engines.close)
    write_plans(engines.maintenance, plans)
    is_new = _is_new(engines.maintenance)
    root_keys = find_root_keys(settings, create=is_new)
    keyring = opening.keyring.open(keyring_directory(settings), root_keys, create=is_new)
    stack.callback(keyring.close)
    # Again: whoever restores looks for open keyrings once its marker is there, so that one of the two sees the other.
    opening.check(settings)
    audit = _logger(engines, keyring, presence)
    admit_keyring(keyring, PostgresCustodyStore(engines.maintenance), audit, system_clock, is_new=is_new)
    proofs = build_proofs(
        settings,
        plans,
        root_keys,
        audit,
        worker=engines.worker,
        maintenance=engines.maintenance,
        locks=home.locks,
        on_close=stack.callback,
    )
    keyring.create_tenant(SYSTEM_LOG)
    url = server.url("luminescent_pixeltable", DATA_DATABASE)
    open_pixeltable(settings.home, url, pool_size=settings.data_pool_size)
    # Only now: the modules import Pixeltable, which must find its environment prepared.
    from cloud.memory.pixeltable import PixeltableRows
    from cloud.memory.pixeltable_columns import PixeltableColumns
    from cloud.memory.pixeltable_handles import Tables

    pool = PixeltablePool()
    stack.callback(pool.close)
    sealer = AesGcmSealer()
    models = Models(keyring, sealer, embedders(settings), first=settings.embedder)
    check_models(models, adopt(engines.maintenance, models.first))
    install(models)
    stack.callback(uninstall, models)
    tables = Tables(
        pool,
        recover=server.recover,
        model_of=lambda placement: model_of(engines.worker, placement, first=models.first),
    )
    identity = build_identity(
        settings, keyring, app=engines.app, worker=engines.worker, keys=engines.keys, on_close=stack.callback
    )
    ledger = PostgresManagedLedger(engines.app)
    read_times = ReadTimes(ledger)
    stack.callback(read_times.close)
    config = PixeltableConfig(
        ledger=ledger,
        rows=PixeltableRows(tables),
        keyring=keyring,
        sealer=sealer,
        models=models,
        hot=HotTier(capacity_bytes=settings.hot_tier_mb * 2**20),
        read_times=read_times,
        identities=identity.resolver,
        clock=system_clock,
        weights=settings.ranking_weights(),
        deleted_retention=retention_of(settings).deleted,
    )
    # Before anything is served: a database that was restored may know people who were erased since.
    erased = erasure_ledger(settings, proofs.keys)
    replay = build_replay(engines, config, audit, erased, first_model=models.first)
    if opening.without_ledger:
        replay.rebuild()
    replayed = replay.run()
    stack.enter_context(what_lasts_left_out())
    return Installation(
        settings,
        plans,
        engines,
        config,
        keyring,
        root_keys,
        PixeltableColumns(tables),
        tables.physical,
        server,
        identity,
        proofs,
        presence,
        erased,
        replayed,
        stack.pop_all(),
    )


def retention_of(settings: CloudSettings) -> Retention:
    """How long memories that are no longer read are kept."""
    return Retention(
        deleted=timedelta(days=settings.deleted_retention_days),
        expired=timedelta(days=settings.expired_retention_days),
        superseded=timedelta(days=settings.superseded_retention_days),
    )


def _is_new(engine: ControlEngine) -> bool:
    # A keyring is made for an installation without tenants only: beside existing memories a new, empty keyring would
    # hide that theirs is lost.
    return not engine.rows(sa.text("SELECT 1 FROM tenants LIMIT 1"))


def system_predicates(component: str) -> Callable[[str], TenantPredicate]:
    """Makes the predicates of a component of the service itself."""
    return lambda tenant_id: system_predicate(tenant_id, component)


def _logger(engines: Engines, keyring: FileKeyring, presence: Presence) -> CloudAuditLogger:
    return CloudAuditLogger(PostgresAuditStore(engines.app, engines.maintenance), keyring, process=presence.id)


def _open_config(home: Path) -> PixeltableConfig:
    installation = open_installation(CloudSettings(home=home))
    return dataclasses.replace(installation.config, on_close=installation.close)


PixeltableConfig.opener = _open_config
