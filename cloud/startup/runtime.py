"""A running installation: builds the extensions, registers them, takes them down."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import threading
import time
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa

from cloud.audit.postgres import PostgresAuditStore
from cloud.audit.service import CloudAuditLogger
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.service import CloudGDPRService
from cloud.kernel.errors import ErasureIncompleteError, ProviderUnavailableError
from cloud.memory.provider import CloudMemoryProvider
from cloud.memory.worker import WorkerProcess
from cloud.settings import CloudSettings
from cloud.startup.installation import Installation, open_installation
from cloud.tenancy.administration import Administration
from cloud.tenancy.api_keys import ApiKeys
from cloud.tenancy.postgres import PostgresTenantStore
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.service import Tenants
from cloud.usage.books import PostgresUsageBooks
from cloud.usage.model import Meter
from cloud.usage.postgres import PostgresUsageStore
from cloud.usage.service import CloudUsageTracker
from src.extensions import ExtensionRegistry

_DRAIN_POLL_S: Final = 0.05

_log = logging.getLogger(__name__)


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
        self.usage = CloudUsageTracker(PostgresUsageStore(engines.app), config.clock, config.keyring)
        store = PostgresTenantStore(engines.maintenance)
        admissions = Administration(self.tenant_provider, config.identities, self.audit, store)
        self.audit.use_admission(admissions)
        self.usage.use_admission(admissions, self.audit)
        self.usage.use_books(PostgresUsageBooks(engines.maintenance))
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
