"""`ResidueScan`: takes a person's fingerprints into a file, and looks for them later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cloud.audit.model import Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.gdpr.fingerprints import FingerprintSet, read, write
from cloud.gdpr.ports import ErasureStore
from cloud.gdpr.scan import Scanner, ScanReport
from cloud.gdpr.taking import TracesOf, take
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError
from cloud.memory.config import PixeltableConfig
from cloud.tenancy.administration import Administration
from src.memory.validation import check_user_id


class ResidueScan:
    """Shows what an erasure leaves: fingerprints before it, a search after it.

    Args:
        store: Rows of the control plane.
        config: The installation.
        key_traces: What the keyring's files hold of a subject.
        scanner: Looks through the files.
        admissions: The door.
        audit: The log.
    """

    def __init__(
        self,
        store: ErasureStore,
        config: PixeltableConfig,
        key_traces: TracesOf,
        scanner: Scanner,
        admissions: Administration,
        audit: TransactionalAuditLogger,
    ) -> None:
        self._store = store
        self._config = config
        self._key_traces = key_traces
        self._scanner = scanner
        self._admissions = admissions
        self._audit = audit

    @telemetry.operation()
    def take(self, user_id: str, tenant_id: str, path: Path, *, with_plaintext: bool = True) -> FingerprintSet:
        """Fingerprints of everything that is kept of a person, in a new file of mode 0600.

        Args:
            user_id: The person.
            tenant_id: The tenant.
            path: The file; outside the home, where a search would find it.
            with_plaintext: Whether pieces of plaintext are among them, which are personal data.

        Raises:
            PermissionDeniedError: The caller may not erase here, so neither this.
            AuthenticationError: There is no such tenant, or nobody is calling.
            InvalidFilterError: The user id is none.
            ConfigurationError: Nothing is kept of the person, or the file cannot be written.
            ProviderUnavailableError: A part did not answer.
        """
        admitted = self._admissions.administer(tenant_id, Action.SCAN_TAKE, user_id=user_id)
        with recorded_failure(self._audit, admitted.draft, tenant_id):
            check_user_id(user_id)
            person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
            if person is None:
                raise ConfigurationError("nothing is kept of this person: there is nothing to take fingerprints of")
            if path.resolve().is_relative_to(self._scanner.home):
                raise ConfigurationError("the fingerprints would be found in the home itself: name a file outside it")
            taken = take(
                admitted.predicate,
                person,
                user_id,
                config=self._config,
                store=self._store,
                key_traces=self._key_traces,
            )
            if not with_plaintext:
                taken = taken.without_plaintext()
            write(taken, path)
            try:
                draft = replace(admitted.draft, subject_id=person.subject_id, category=Category.ADMINISTRATION)
                counts = {"fingerprints": len(taken.fingerprints)}
                self._audit.record(tenant_id, draft, Outcome.ALLOWED, counts=counts)
            except BaseException:
                # What is not recorded has not happened.
                path.unlink(missing_ok=True)
                raise
        return taken

    @telemetry.operation()
    def search(
        self,
        path: Path,
        *,
        also: Sequence[Path] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> ScanReport:
        """Look for the fingerprints of a file everywhere in the installation.

        Args:
            path: What `take` wrote.
            also: Directories outside the home, such as those for temporary files.
            progress: Told how many bytes of how many are done.

        Raises:
            PermissionDeniedError: The caller is no operator.
            ConfigurationError: The file is none of fingerprints, or a directory is missing.
            ProviderUnavailableError: The server did not answer.
        """
        draft = self._admissions.operate(Action.SCAN_SEARCH)
        with recorded_failure(self._audit, draft):
            taken = read(path)
            if missing := [str(directory) for directory in also if not directory.is_dir()]:
                raise ConfigurationError(f"no such directory: {', '.join(missing)}")
        telemetry.of_tenant(taken.tenant_id)
        with recorded_failure(self._audit, draft, taken.tenant_id):
            report = self._scanner.search(taken, also=[directory.resolve() for directory in also], progress=progress)
            counts = {
                "files": report.files,
                "findings": len(report.findings),
                "residue": len(report.residue),
                "unreachable": len(report.unreachable),
            }
            self._audit.record(taken.tenant_id, draft, Outcome.ALLOWED, counts=counts)
        return report
