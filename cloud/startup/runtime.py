"""A running installation: builds the extensions, registers them, takes them down."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import time
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa
from pydantic import SecretStr

from cloud.audit.archiving import AuditArchives
from cloud.custody.postgres import PostgresCustodyStore
from cloud.custody.service import Custody
from cloud.gdpr.postgres import PostgresErasureStore
from cloud.gdpr.scanning import ResidueScan
from cloud.kernel.errors import (
    ConfigurationError,
    ErasureIncompleteError,
    KeyDestroyedError,
    ProviderUnavailableError,
)
from cloud.leaktest.service import LeakTest
from cloud.memory.embeddings import Embeddings
from cloud.memory.provider import CloudMemoryProvider
from cloud.memory.purge import MemoryPurge
from cloud.memory.worker import WorkerProcess, WorkerThread
from cloud.settings import CloudSettings
from cloud.startup.backups import build_backups
from cloud.startup.custody import place_of
from cloud.startup.erasing import build_closing, build_gdpr
from cloud.startup.installation import Installation, open_installation, system_predicates
from cloud.startup.keyring import keyring_directory
from cloud.startup.observability import export_telemetry
from cloud.startup.working import work
from cloud.tenancy.administration import Administration
from cloud.tenancy.api_keys import ApiKeys
from cloud.tenancy.postgres import PostgresTenantStore
from cloud.tenancy.postgres_tokens import PostgresRevokedTokens
from cloud.tenancy.provider import CloudTenantProvider
from cloud.tenancy.service import Tenants
from cloud.tenancy.token_administration import TokenAdministration
from cloud.transfer.checkpoints import FileCheckpoints
from cloud.transfer.service import CloudTransfer
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
        memory_purge: Removes for good what was deleted, expired or superseded long enough ago.
        tenant_provider: `CloudTenantProvider`.
        tenants: Creates, changes, moves, suspends, resumes and lists tenants.
        embeddings: Changes embedding models.
        api_keys: Creates, rotates, revokes, lists and reviews API keys.
        tokens: Checks and revokes an issuer's tokens.
        usage: `CloudUsageTracker`.
        audit: `CloudAuditLogger`.
        audit_archives: Archives old months of the audit logs on an operator's word.
        transfer: `CloudTransfer`.
        gdpr: `CloudGDPRService`.
        closing: Closes tenants for good.
        scan: `ResidueScan`.
        keyring: `Custody` of the keyring: rotation, backup, diagnosis.
        backups: `DataBackups`: makes, lists and expires backups of both databases.
        leak_test: Sends canaries through every path of reading, in tenants of its own.
        pixeltable_config: What a `CloudMemoryProvider` is built from.
    """

    def __init__(self, installation: Installation) -> None:
        engines, config = installation.engines, installation.config
        self._installation = installation
        self._worker: WorkerProcess | WorkerThread | None = None
        self._closed = False
        self.pixeltable_config = config
        self.tenant_provider = CloudTenantProvider(config.identities)
        self.audit = installation.logger()
        self.usage = CloudUsageTracker(PostgresUsageStore(engines.app), config.clock, config.keyring)
        store = PostgresTenantStore(engines.maintenance, first_model=config.models.first)
        admissions = Administration(self.tenant_provider, config.identities, self.audit, store)
        self.audit.use_admission(admissions)
        self.audit.use_evidence(installation.proofs.evidence)
        self.audit_archives = AuditArchives(installation.proofs.archiver, admissions, self.audit)
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
            mover=installation.mover(),
        )
        self.embeddings = Embeddings(
            engines.maintenance,
            installation.placements(),
            installation.columns,
            config,
            admissions,
            self.audit,
            system_predicates("embeddings"),
        )
        identity = installation.identity
        self.api_keys = ApiKeys(
            store,
            config.keyring,
            admissions,
            self.audit,
            clock=config.clock,
            use=identity.use,
            tokens=identity.tokens.access() if identity.tokens else None,
        )
        self.tokens = TokenAdministration(
            identity.tokens, PostgresRevokedTokens(engines.maintenance), admissions, self.audit
        )
        self.memory = CloudMemoryProvider(config, self.tenant_provider, self.audit, self.usage)
        self.keyring = Custody(
            place_of(installation.keyring, keyring_directory(installation.settings), installation.root_keys),
            PostgresCustodyStore(engines.maintenance),
            admissions,
            self.audit,
            config.clock,
            on_root_key=installation.proofs.keys.rewrap,
        )
        self.memory_purge = MemoryPurge(installation.purger(), admissions, self.audit)
        checkpoints = FileCheckpoints(installation.settings.home / "imports")
        self.transfer = CloudTransfer(config, self.memory, admissions, self.audit, checkpoints)
        self.gdpr = build_gdpr(installation, admissions, self.audit, on_key_destroyed=self.keyring.note)
        self.closing = build_closing(installation, admissions, self.audit, store, on_key_destroyed=self.keyring.note)
        self.backups = build_backups(
            installation.settings,
            installation.server,
            engines,
            installation.keyring,
            installation.proofs.keys,
            installation.ledger,
            admissions,
            self.audit,
        )
        self.scan = ResidueScan(
            PostgresErasureStore(engines.maintenance),
            config,
            installation.keyring.traces,
            installation.scanner(),
            admissions,
            self.audit,
        )
        self.leak_test = LeakTest(self, admissions, self.audit, engines.maintenance)

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
        for resume in (self.gdpr.resume, self.closing.resume):
            try:
                resume()
            except (ConfigurationError, ErasureIncompleteError, ProviderUnavailableError) as error:
                # It is recorded, and what it erases stays frozen: nobody else has to wait for it.
                _log.error("an erasure could not be finished and is tried again at the next start: %s", error)  # noqa: TRY400
        try:
            self.keyring.resume()
        except (ConfigurationError, KeyDestroyedError, ProviderUnavailableError) as error:
            # Every key can be read meanwhile, under the old or the new one: nobody has to wait for it either.
            _log.warning("a rotation of the keyring could not be finished: %s", error)
        identity = self._installation.identity
        if identity.tokens is not None:
            identity.tokens.warm()
        try:
            identity.refusals.report()
        except ProviderUnavailableError as error:
            _log.warning("refusals of an earlier process are reported later: %s", error)
        match self._installation.settings.worker:
            case "process":
                worker = WorkerProcess(_for_child(self._installation.settings))
                worker.start()
                self._worker = worker
            case "thread":
                thread = WorkerThread(partial(work, self._installation))
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
        """Process id of the embedded PostgreSQL, or `None` if it does not run or the server is an external one."""
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
        if self._worker is not None:
            self._worker.stop()
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
    settings = settings or CloudSettings()
    export_telemetry(settings)
    installation = open_installation(settings)
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
    """Settings as the worker reads them: one line of JSON. It holds secrets, so it goes through a pipe only."""
    secret = {name: value.get_secret_value() for name, value in settings if isinstance(value, SecretStr)}
    return json.dumps(settings.model_dump(mode="json") | secret)


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
