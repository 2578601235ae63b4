"""Opens an installation: storage, roles, migrations, keys, and the parts that memories live in."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from cloud.audit.model import Category
from cloud.audit.postgres import PostgresAuditStore
from cloud.audit.service import CloudAuditLogger
from cloud.kernel.access import Action
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import LuminescentError, OperationInProgressError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import TenantPredicate
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sealing import AesGcmSealer
from cloud.keys.sqlite import FileKeyring
from cloud.memory.config import PixeltableConfig
from cloud.memory.hot import HotTier
from cloud.memory.materializer import Materializer
from cloud.memory.moves import Mover
from cloud.memory.placement_store import PlacementStore, adopt, model_of
from cloud.memory.ports import Columns
from cloud.memory.postgres import PostgresLedger
from cloud.memory.vectors import Models, install, uninstall
from cloud.settings import CloudSettings
from cloud.storage.durability import check_durability
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.engine import ControlEngine, Deadline, check_role
from cloud.storage.home import private_directory
from cloud.storage.migrate import migrate
from cloud.storage.pixeltable_env import disconnect_pixeltable, open_pixeltable
from cloud.storage.pixeltable_pool import PixeltablePool
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.postgres import PostgresApiKeyLookup
from cloud.tenancy.system import system_predicate
from cloud.usage.model import Plan
from cloud.usage.plans import read_plans, write_plans
from src.memory.embedding import Embedder, HashingEmbedder, WordLlamaEmbedder
from src.memory.transformer_embedding import SentenceTransformersEmbedder

CONTROL: Final = "luminescent_control"
DATA: Final = "luminescent_data"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Engines:
    """One engine per role of the control plane."""

    app: ControlEngine
    worker: ControlEngine
    keys: ControlEngine
    maintenance: ControlEngine

    def close(self) -> None:
        """Close all of them."""
        for engine in (self.app, self.worker, self.keys, self.maintenance):
            engine.close()


@dataclass(slots=True)
class Installation:
    """What every process of an installation opens: storage, keys and the parts of the memory feature."""

    settings: CloudSettings
    plans: dict[str, Plan]
    engines: Engines
    config: PixeltableConfig
    keyring: FileKeyring
    columns: Columns
    server: EmbeddedPostgres
    stack: contextlib.ExitStack = field(repr=False)

    def materializer(self) -> Materializer:
        """The loop that moves memories into Pixeltable."""

        return Materializer(self.engines.worker, self.config.rows, system_predicates("materializer"))

    def placements(self) -> PlacementStore:
        """Which tables there are, and which moves."""
        return PlacementStore(self.engines.maintenance)

    def mover(self) -> Mover:
        """Moves tenants between tables."""
        return Mover(self.engines.maintenance, self.placements(), self.config.rows, system_predicates("mover"))

    def close(self) -> None:
        """Give back everything, in the reverse order of taking it."""
        self.stack.close()


def open_installation(settings: CloudSettings) -> Installation:
    """Open, check and migrate the installation at `settings.home`, made when missing.

    Raises:
        ConfigurationError: It cannot be opened; the message says what to change.
        ProviderUnavailableError: A part of it did not answer in time.
    """
    plans = read_plans(settings.plans_file)
    with contextlib.ExitStack() as stack:
        server = EmbeddedPostgres.open(settings.home)
        stack.callback(server.close)
        stack.callback(disconnect_pixeltable)
        migrate(server.url("luminescent_owner", CONTROL))
        engines = _engines(settings, server)
        stack.callback(engines.close)
        write_plans(engines.maintenance, plans)
        is_new = _is_new(engines.maintenance)
        keyring = FileKeyring.open(settings.home / "keyring", _root_key(settings, create=is_new), create=is_new)
        stack.callback(keyring.close)
        keyring.create_tenant(SYSTEM_LOG)
        open_pixeltable(settings.home, server.url("luminescent_pixeltable", DATA))
        # Only now: the modules import Pixeltable, which must find its environment prepared.
        from cloud.memory.pixeltable import PixeltableRows
        from cloud.memory.pixeltable_columns import PixeltableColumns
        from cloud.memory.pixeltable_handles import Tables

        pool = PixeltablePool()
        stack.callback(pool.close)
        sealer = AesGcmSealer()
        models = Models(keyring, sealer, embedders(settings), first=settings.embedder)
        _check_models(models, adopt(engines.maintenance, models.first))
        install(models)
        stack.callback(uninstall, models)
        tables = Tables(
            pool,
            recover=server.recover,
            model_of=lambda placement: model_of(engines.worker, placement, first=models.first),
        )
        identities = IdentityResolver(
            PostgresApiKeyLookup(engines.keys),
            keyring,
            system_clock,
            trusted_gateway=settings.trusted_gateway,
            default_tenant=settings.default_tenant,
        )
        config = PixeltableConfig(
            ledger=PostgresLedger(engines.app),
            rows=PixeltableRows(tables),
            keyring=keyring,
            sealer=sealer,
            models=models,
            hot=HotTier(capacity_bytes=settings.hot_tier_mb * 2**20),
            identities=identities,
            clock=system_clock,
            weights=settings.ranking_weights(),
        )
        return Installation(
            settings, plans, engines, config, keyring, PixeltableColumns(tables), server, stack.pop_all()
        )


def _engines(settings: CloudSettings, server: EmbeddedPostgres) -> Engines:
    def engine(role: str, pool_size: int) -> ControlEngine:
        return ControlEngine(
            server.url(f"luminescent_{role}", CONTROL),
            pool_size=pool_size,
            deadline=Deadline(total_s=settings.deadline_s, statement_s=settings.statement_s),
            application_name=f"luminescent-cloud {role}",
            recover=server.recover,
        )

    engines = Engines(
        app=engine("app", settings.control_pool_size),
        worker=engine("worker", 2),
        keys=engine("keys", 2),
        maintenance=engine("maintenance", 2),
    )
    try:
        for one in (engines.app, engines.worker, engines.keys, engines.maintenance):
            check_role(one)
        with engines.app.connection() as connection:
            check_durability(connection)
    except BaseException:
        engines.close()
        raise
    return engines


def _is_new(engine: ControlEngine) -> bool:
    # A keyring is made for an installation without tenants only: beside existing memories a new, empty keyring would
    # hide that theirs is lost.
    return not engine.rows(sa.text("SELECT 1 FROM tenants LIMIT 1"))


def _root_key(settings: CloudSettings, *, create: bool) -> LocalRootKey:
    if settings.root_key is not None:
        return LocalRootKey.from_text(settings.root_key.get_secret_value())
    if settings.root_key_file is not None:
        return LocalRootKey.from_file(settings.root_key_file)
    path = private_directory(settings.home / "secrets") / "root.key"
    return LocalRootKey.from_file(path, create=create and not (settings.home / "keyring").exists())


def embedders(settings: CloudSettings) -> dict[str, Callable[[], Embedder]]:
    """The models that this process can compute, by name. Each is made when it is first asked for."""
    known: dict[str, Callable[[], Embedder]] = {
        "wordllama": WordLlamaEmbedder,
        "wordllama-128": lambda: WordLlamaEmbedder(128),
        "hashing": HashingEmbedder,
    }
    directory = settings.sentence_transformers_dir
    if directory is not None:
        known[SentenceTransformersEmbedder.name] = lambda: SentenceTransformersEmbedder(directory)
    return known


def _check_models(models: Models, others: Sequence[str]) -> None:
    """This process can compute every model that is read somewhere; that the setting names another one is said.

    Raises:
        ConfigurationError: It cannot: it would write rows without vectors.
    """
    for model in (models.first, *others):
        models.of(model)
    if others:
        _log.warning(
            "new tables begin with the embedding model %s, as set; some that are there are read with: %s. Vectors of "
            "two models are never compared; luminescent-cloud embeddings status tells which, embeddings migrate "
            "changes them",
            models.first,
            ", ".join(others),
        )


def system_predicates(component: str) -> Callable[[str], TenantPredicate]:
    """Makes the predicates of a component of the service itself."""
    return lambda tenant_id: system_predicate(tenant_id, component)


def run_worker(settings: CloudSettings, stop: threading.Event) -> None:
    """Materialize until `stop` is set; several may run on one installation, and one works on a placement at a time."""
    installation = open_installation(settings)
    try:
        work(installation, stop)
    finally:
        installation.close()


def work(installation: Installation, stop: threading.Event) -> None:
    """Materialize until `stop` is set, and beside that finish the moves that a process was killed in."""
    moves = threading.Thread(target=_finish_moves, args=(installation, stop), name="luminescent-moves")
    moves.start()
    try:
        installation.materializer().run(stop)
    finally:
        moves.join()


def _finish_moves(installation: Installation, stop: threading.Event) -> None:
    engines = installation.engines
    audit = CloudAuditLogger(PostgresAuditStore(engines.app, engines.maintenance), installation.keyring)
    mover = installation.mover()
    try:
        for move in mover.unfinished():
            scope = system_predicate(move.tenant_id, "mover").scope
            draft = audit.draft(scope, Action.TENANT_MOVE, category=Category.ADMINISTRATION)
            with contextlib.suppress(OperationInProgressError):
                mover.run(move, draft, stop=stop)
    except LuminescentError as error:
        # It stays recorded as unfinished, and both tables are known: nobody else has to wait for it.
        _log.error("a move could not be finished and is tried again at the next start: %s", error)  # noqa: TRY400


def _open_config(home: Path) -> PixeltableConfig:
    installation = open_installation(CloudSettings(home=home))
    config = installation.config
    return PixeltableConfig(
        ledger=config.ledger,
        rows=config.rows,
        keyring=config.keyring,
        sealer=config.sealer,
        models=config.models,
        hot=config.hot,
        identities=config.identities,
        clock=config.clock,
        weights=config.weights,
        on_close=installation.close,
    )


PixeltableConfig.opener = _open_config
