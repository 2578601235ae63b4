"""The composition root: builds an installation from settings, checks it, registers its extensions, takes it down.

Nothing below reads settings or the environment; every adapter is picked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa

from cloud.audit.postgres import PostgresAuditStore
from cloud.audit.service import CloudAuditLogger
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel.clock import system_clock
from cloud.kernel.errors import ErasureIncompleteError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import TenantPredicate
from cloud.keys.rootkey import LocalRootKey
from cloud.keys.sealing import AesGcmSealer
from cloud.keys.sqlite import FileKeyring
from cloud.memory.config import PixeltableConfig
from cloud.memory.hot import HotTier
from cloud.memory.materializer import Materializer
from cloud.memory.postgres import PostgresLedger
from cloud.memory.provider import CloudMemoryProvider
from cloud.memory.vectors import Vectorizer, install, uninstall
from cloud.memory.worker import WorkerProcess
from cloud.settings import CloudSettings
from cloud.storage.durability import check_durability
from cloud.storage.embedded import EmbeddedPostgres
from cloud.storage.engine import ControlEngine, Deadline, check_role
from cloud.storage.home import private_directory
from cloud.storage.migrate import migrate
from cloud.storage.pixeltable_env import disconnect_pixeltable, open_pixeltable
from cloud.storage.pixeltable_pool import PixeltablePool
from cloud.tenancy.administration import Administration
from cloud.tenancy.api_keys import ApiKeys
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.postgres import PostgresApiKeyLookup, PostgresTenantStore
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.service import Tenants
from cloud.tenancy.system import system_predicate
from cloud.usage.model import Meter, Plan
from cloud.usage.plans import read_plans, write_plans
from cloud.usage.postgres import PostgresUsageStore
from cloud.usage.service import CloudUsageTracker
from src.extensions import ExtensionRegistry
from src.memory.embedding import Embedder, HashingEmbedder, WordLlamaEmbedder

CONTROL: Final = "luminescent_control"
DATA: Final = "luminescent_data"
_DRAIN_POLL_S: Final = 0.05

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
    server: EmbeddedPostgres
    stack: contextlib.ExitStack = field(repr=False)

    def materializer(self) -> Materializer:
        """The loop that moves memories into Pixeltable."""

        def predicate(tenant_id: str) -> TenantPredicate:
            return system_predicate(tenant_id, "materializer")

        return Materializer(self.engines.worker, self.config.rows, predicate)

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
        # Only now: the module imports Pixeltable, which must find its environment prepared.
        from cloud.memory.pixeltable import PixeltableRows

        pool = PixeltablePool()
        stack.callback(pool.close)
        sealer = AesGcmSealer()
        vectorizer = Vectorizer(keyring, sealer, _embedder(settings))
        install(vectorizer)
        stack.callback(uninstall, vectorizer)
        identities = IdentityResolver(
            PostgresApiKeyLookup(engines.keys),
            keyring,
            system_clock,
            trusted_gateway=settings.trusted_gateway,
            default_tenant=settings.default_tenant,
        )
        config = PixeltableConfig(
            ledger=PostgresLedger(engines.app),
            rows=PixeltableRows(pool, recover=server.recover),
            keyring=keyring,
            sealer=sealer,
            vectorizer=vectorizer,
            hot=HotTier(capacity_bytes=settings.hot_tier_mb * 2**20),
            identities=identities,
            clock=system_clock,
            weights=settings.ranking_weights(),
        )
        return Installation(settings, plans, engines, config, keyring, server, stack.pop_all())


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


def _embedder(settings: CloudSettings) -> Embedder:
    return HashingEmbedder() if settings.embedder == "hashing" else WordLlamaEmbedder()


class CloudRuntime:
    """A running installation: its extensions, and what takes it down. A context manager.

    Attributes:
        memory: `CloudMemoryProvider`.
        tenant_provider: `CloudTenantProvider`.
        tenants: Creates, suspends, resumes and lists tenants.
        api_keys: Creates, revokes and lists API keys.
        usage: `CloudUsageTracker`.
        audit: `CloudAuditLogger`.
        gdpr: `CloudGDPRService`.
        pixeltable_config: What a `CloudMemoryProvider` is built from.
    """

    def __init__(self, installation: Installation) -> None:
        engines, config = installation.engines, installation.config
        self._installation = installation
        self._stop = threading.Event()
        self._worker: WorkerProcess | threading.Thread | None = None
        self._closed = False
        self.pixeltable_config = config
        self.tenant_provider = CloudTenantProvider(config.identities)
        self.audit = CloudAuditLogger(PostgresAuditStore(engines.app, engines.maintenance), config.keyring)
        self.usage = CloudUsageTracker(PostgresUsageStore(engines.app), config.clock)
        store = PostgresTenantStore(engines.maintenance)
        admissions = Administration(self.tenant_provider, config.identities, self.audit, store)
        self.audit.use_admission(admissions)
        self.usage.use_admission(admissions, self.audit)
        self.tenants = Tenants(
            store,
            config.keyring,
            admissions,
            self.audit,
            plans=installation.plans,
            meters=tuple(meter.value for meter in Meter),
            clock=config.clock,
        )
        self.api_keys = ApiKeys(store, config.keyring, admissions, self.audit)
        self.memory = CloudMemoryProvider(config, self.tenant_provider, self.audit, self.usage)
        self.gdpr = CloudGDPRService(
            PostgresErasureStore(engines.maintenance), engines.maintenance, config, admissions, self.audit
        )

    def register(self) -> None:
        """Register the extensions in the open core's registry, and in the published package's if it is installed."""
        _registered.append(self)
        for registry in _registries():
            for name, extension in self._extensions().items():
                if hasattr(registry, name):
                    setattr(registry, name, extension)

    def _extensions(self) -> dict[str, object]:
        return {
            "tenant_provider": self.tenant_provider,
            "usage_tracker": self.usage,
            "audit_logger": self.audit,
            "memory_provider": self.memory,
            "gdpr_service": self.gdpr,
        }

    def start(self) -> None:
        """Start what works in the background, and finish what an earlier process was killed in."""
        try:
            self.gdpr.resume()
        except (ErasureIncompleteError, ProviderUnavailableError) as error:
            # It is recorded, and its subject stays frozen: nobody else has to wait for it.
            _log.error("an erasure could not be finished and is tried again at the next start: %s", error)  # noqa: TRY400
        match self._installation.settings.worker:
            case "process":
                worker = WorkerProcess(_for_child(self._installation.settings))
                worker.start()
                self._worker = worker
            case "thread":
                loop = self._installation.materializer()
                thread = threading.Thread(target=loop.run, args=(self._stop,), name="luminescent-materializer")
                thread.start()
                self._worker = thread
            case "off":
                pass

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker, if it is a child process."""
        return self._worker.pid() if isinstance(self._worker, WorkerProcess) else None

    @property
    def server_pid(self) -> int | None:
        """Process id of the embedded PostgreSQL, or `None` if it does not run."""
        return self._installation.server.pid()

    async def drain(self, *, timeout_s: float = 60.0) -> None:
        """Wait until every memory accepted so far is in Pixeltable.

        Raises:
            ProviderUnavailableError: That took longer than `timeout_s`.
        """
        await asyncio.to_thread(self._drain, timeout_s)

    def _drain(self, timeout_s: float) -> None:
        # Ids are time-ordered, so what is accepted while this waits is not waited for.
        (row,) = self._installation.engines.worker.rows(sa.text("SELECT max(memory_id::text) FROM intake"))
        end_s = time.monotonic() + timeout_s
        while row[0] is not None:
            waiting = self._installation.engines.worker.rows(
                sa.text("SELECT 1 FROM intake WHERE memory_id <= CAST(:last AS uuid) LIMIT 1"), {"last": row[0]}
            )
            if not waiting:
                return
            if time.monotonic() > end_s:
                raise ProviderUnavailableError("materializer", reason=f"did not finish within {timeout_s:g} s")
            time.sleep(_DRAIN_POLL_S)

    def close(self) -> None:
        """Take down what this runtime started and nothing else; the last process to leave stops the server."""
        if self._closed:
            return
        self._closed = True
        if self in _registered:
            _registered.remove(self)
        # Where another runtime of this process is open still, the registry is its again.
        others = _registered[-1]._extensions() if _registered else {}
        for registry in _registries():
            for name, mine in self._extensions().items():
                if getattr(registry, name, None) is mine:
                    setattr(registry, name, others.get(name))
        self._stop.set()
        if isinstance(self._worker, WorkerProcess):
            self._worker.stop()
        elif self._worker is not None:
            self._worker.join()
        self.memory.close()
        self._installation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_registered: Final[list[CloudRuntime]] = []
"""The runtimes of this process that are open, in the order of their registration."""


def init_cloud_extensions(settings: CloudSettings | None = None) -> CloudRuntime:
    """Open the installation, start its worker, and register all five extensions.

    Args:
        settings: How it is run; from the environment when left out.

    Raises:
        ConfigurationError: It cannot be opened; the message says what to change.
        ProviderUnavailableError: A part of it did not answer in time.
    """
    installation = open_installation(settings or CloudSettings())
    try:
        runtime = CloudRuntime(installation)
    except BaseException:
        installation.close()
        raise
    try:
        runtime.start()
    except BaseException:
        runtime.close()
        raise
    runtime.register()
    return runtime


def run_worker(settings: CloudSettings, stop: threading.Event) -> None:
    """Materialize until `stop` is set; several may run on one installation, and one works on a placement at a time."""
    installation = open_installation(settings)
    try:
        installation.materializer().run(stop)
    finally:
        installation.close()


def _for_child(settings: CloudSettings) -> str:
    """Settings as the worker reads them: one line of JSON. It holds the root key, so it goes through a pipe only."""
    values = settings.model_dump(mode="json", exclude={"root_key"})
    if settings.root_key is not None:
        values["root_key"] = settings.root_key.get_secret_value()
    return json.dumps(values)


def _registries() -> list[Any]:
    """The open core's registry, and the published package's where it is installed."""
    registries: list[Any] = [ExtensionRegistry.get()]
    try:
        published = importlib.import_module("luminescent_cluster.extensions")
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("luminescent_cluster"):
            raise
    else:
        registries.append(published.ExtensionRegistry.get())
    return registries


def _open_config(home: Path) -> PixeltableConfig:
    installation = open_installation(CloudSettings(home=home))
    config = installation.config
    return PixeltableConfig(
        ledger=config.ledger,
        rows=config.rows,
        keyring=config.keyring,
        sealer=config.sealer,
        vectorizer=config.vectorizer,
        hot=config.hot,
        identities=config.identities,
        clock=config.clock,
        weights=config.weights,
        on_close=installation.close,
    )


PixeltableConfig.opener = _open_config
