"""`CloudTransfer`: imports and exports as operations: admitted, recorded before and after, and limited to a tenant."""

from __future__ import annotations

import asyncio
import hmac
import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from cloud.audit.model import Details, Outcome, reason_of
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import failpoints, telemetry
from cloud.kernel.access import Action
from cloud.kernel.errors import ConfigurationError, InvalidFilterError
from cloud.kernel.scope import TenantScope
from cloud.memory.config import PixeltableConfig
from cloud.memory.writing import refusal
from cloud.tenancy.admission import Admissions, Admitted
from cloud.transfer.exporting import ExportFile, PeoplesMemories, new_export
from cloud.transfer.importing import Importer
from cloud.transfer.model import ExportReport, Format, ImportReport, Limits, Manifest, PersonChoice
from cloud.transfer.ports import Checkpoint, CheckpointStore, MemoryStore, Progress
from cloud.transfer.records import manifest_path, manifest_text, read_manifest
from cloud.transfer.reports import ReportFile, report_file
from cloud.transfer.sources import Source, open_source
from cloud.transfer.verify import check
from src.memory.filters import SearchRequest, parse_filters
from src.memory.validation import check_user_id

_ID_BYTES: Final = 16


def _quiet(_: int) -> None:
    """Progress that nobody looks at."""


class CloudTransfer:
    """Imports files into a tenant and exports its memories, for the present caller.

    Args:
        config: The installation.
        store: Stores what is imported.
        admissions: The door.
        audit: The log.
        checkpoints: How far imports are that have not ended.
    """

    def __init__(
        self,
        config: PixeltableConfig,
        store: MemoryStore,
        admissions: Admissions,
        audit: TransactionalAuditLogger,
        checkpoints: CheckpointStore,
    ) -> None:
        self._config = config
        self._store = store
        self._admissions = admissions
        self._audit = audit
        self._checkpoints = checkpoints
        self._memories = PeoplesMemories(config)

    @telemetry.operation()
    async def import_file(
        self,
        path: Path | str,
        *,
        format: str = "auto",  # noqa: A002 - the public name
        user_id: str | None = None,
        report: Path | str | None = None,
        manifest: Path | str | None = None,
        limits: Limits | None = None,
        as_user: str | None = None,
        include_removed: bool = False,
        progress: Progress = _quiet,
    ) -> ImportReport:
        """Store every entry of a file that is a memory; what is at fault with the others is in the report.

        An error that concerns more than an entry, such as a used-up quota, ends the import and is in the report too.
        What was stored stays stored, and importing the same file again goes on from there, also after a crash: each
        entry is stored once.

        Args:
            path: A plain file of JSON Lines, mem0's or ChatGPT's; all but a ZIP archive may be compressed with gzip.
            format: `auto`, `jsonl`, `mem0`, `chatgpt` or `person`.
            user_id: Whose memories those are that name nobody.
            report: New file for the faults, one JSON object a line; the one of an interrupted run is continued.
            manifest: Manifest that the file must agree with; the one beside the file if there is one.
            limits: Bounds on what a compressed file may become.
            as_user: Of a person's export: whose the memories become.
            include_removed: Of a person's export: whether deleted and replaced memories become ordinary ones.
            progress: Is told how many bytes of the file are done.

        Raises:
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not import here.
            ConfigurationError: An argument cannot be, or the report cannot be written.
            InvalidFilterError: The user id is none.
            UnreadableFileError: The file is nothing that is known, or disagrees with its manifest; nothing was stored.
            ProviderUnavailableError: A part did not answer.
        """
        admitted = await asyncio.to_thread(self._admitted, Action.MEMORY_IMPORT, as_user or user_id)
        choice = PersonChoice(as_user, include_removed)
        given = Path(report) if report is not None else None
        with (
            recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id),
            open_source(Path(path), _wanted(format), limits or Limits(), choice) as source,
        ):
            source.require_person(user_id)
            beside = Path(manifest) if manifest is not None else None
            made, checkpoint = await asyncio.to_thread(
                self._begun, admitted, source, user_id, choice, beside or _manifest_beside(Path(path))
            )
            kept = checkpoint.report_bytes if checkpoint else 0
            with report_file(given, made.import_id, resumed=made.resumed_after, keep_bytes=kept) as faults:
                await asyncio.to_thread(self._intend, admitted, Action.MEMORY_IMPORT_STEP, _about(made))
                failpoints.reach("import.begun")
                importer = Importer(
                    self._store, source, user_id, made, faults, self._checkpoints, self._config.clock, progress
                )
                await importer.run()
                await asyncio.to_thread(self._ended, admitted, made, faults)
        return made

    @telemetry.operation()
    async def export(
        self,
        path: Path | str,
        *,
        user_id: str | None = None,
        filters: Mapping[str, object] | None = None,
        include_invalid: bool = False,
        progress: Progress = _quiet,
    ) -> ExportReport:
        """Write a person's memories, or those of everybody in the tenant, to a new file, with a manifest beside it.

        Each person's memories are as they were at one moment; what is stored while the export runs may be in it or
        not. Deleted memories are not in it.

        Args:
            path: The file, mode 0600; compressed with gzip if its name ends in `.gz`. It must not exist.
            user_id: The person; everybody if left out, which needs the role `tenant_admin`.
            filters: The grammar of `src.memory.filters`, without `query`.
            include_invalid: Whether expired memories are written too.
            progress: Is told how many memories are written.

        Raises:
            AuthenticationError, PermissionDeniedError, TenantIsolationError: The caller may not export this.
            ConfigurationError: There is such a file, or it cannot be written; nothing of it stays.
            InvalidFilterError: The filter or the user id cannot be understood.
            ProviderUnavailableError: A part did not answer.
        """
        return await asyncio.to_thread(
            self._export, Path(path), user_id, dict(filters or {}), include_invalid, progress
        )

    def _begun(
        self, admitted: Admitted, source: Source, user_id: str | None, choice: PersonChoice, manifest: Path | None
    ) -> tuple[ImportReport, Checkpoint | None]:
        if manifest is not None:
            check(source, read_manifest(manifest))
        import_id = self._import_id(admitted.scope.tenant_id, source, user_id, choice)
        made = ImportReport(source.format, import_id)
        checkpoint = self._checkpoints.load(import_id)
        if checkpoint is not None:
            made.resumed_after = checkpoint.position
            for name, count in checkpoint.counts.items():
                setattr(made, name, count)
        return made, checkpoint

    def _import_id(self, tenant_id: str, source: Source, user_id: str | None, choice: PersonChoice) -> str:
        # Keyed: the digest of a small file, and a user id, could be guessed from a plain hash of them. By the first key
        # that the tenant had: a file that is imported again after a rotation must be recognized.
        secret = self._config.keyring.tenant_key(tenant_id).first
        parts = ["import", source.digest(), source.format.value, user_id or ""]
        if source.format is Format.PERSON:
            # The same file taken otherwise is another import.
            parts += [choice.as_user or "", str(choice.include_removed)]
        named = "\0".join(parts)
        return hmac.digest(secret, named.encode("utf-8", "surrogatepass"), "sha256")[:_ID_BYTES].hex()

    def _ended(self, admitted: Admitted, made: ImportReport, faults: ReportFile) -> None:
        if made.stopped is None:
            try:
                faults.write({"summary": made.counts()})
            except ConfigurationError as error:
                made.stopped = error
        stopped = made.stopped
        if stopped is not None:
            telemetry.stopped_by(stopped)
        self._audit.record(
            admitted.scope.tenant_id,
            replace(admitted.draft, details=_about(made)),
            Outcome.ALLOWED if stopped is None else Outcome.FAILED,
            reason=None if stopped is None else reason_of(stopped),
            counts=made.counts(),
        )
        failpoints.reach("import.recorded")
        if stopped is None:
            self._checkpoints.remove(made.import_id)

    def _export(
        self,
        path: Path,
        user_id: str | None,
        filters: dict[str, object],
        include_invalid: bool,
        progress: Progress,
    ) -> ExportReport:
        action = Action.MEMORY_EXPORT_ALL if user_id is None else Action.MEMORY_EXPORT
        admitted = self._admitted(action, user_id)
        with recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id):
            request = _request(filters, include_invalid)
            with new_export(path) as out:
                subject_id = self._intend_export(admitted, user_id)
                failpoints.reach("export.begun")
                for person in self._memories.people(admitted.predicate, user_id):
                    out.write(self._memories.lines(admitted.predicate, person, request), progress)
                self._check_served(admitted)
                out.complete()
                failpoints.reach("export.written")
                manifest = _manifest(out, admitted.scope, self._config.clock().isoformat(), request, bool(filters))
                out.publish(manifest_text(manifest), lambda: self._exported(admitted, subject_id, manifest))
        return ExportReport(path, manifest_path(path), manifest)

    def _intend_export(self, admitted: Admitted, user_id: str | None) -> str | None:
        person = next(self._memories.people(admitted.predicate, user_id), None) if user_id is not None else None
        subject_id = person.subject_id if person else None
        self._intend(admitted, Action.MEMORY_EXPORT_STEP, {}, subject_id=subject_id)
        return subject_id

    def _exported(self, admitted: Admitted, subject_id: str | None, manifest: Manifest) -> None:
        draft = replace(admitted.draft, subject_id=subject_id)
        counts = {"memories": manifest.memories, "people": manifest.people}
        self._audit.record(admitted.scope.tenant_id, draft, Outcome.ALLOWED, counts=counts)

    def _admitted(self, action: Action, user_id: str | None) -> Admitted:
        admitted = self._admissions.admit(action, {}, user_id=user_id)
        with recorded_failure(self._audit, admitted.draft, admitted.scope.tenant_id):
            if user_id is not None:
                check_user_id(user_id)
        self._check_served(admitted)
        return admitted

    def _check_served(self, admitted: Admitted) -> None:
        refused = self._config.ledger.refusal(admitted.predicate)
        if refused is not None:
            self._audit.record(admitted.scope.tenant_id, admitted.draft, Outcome.DENIED, reason=refused.reason)
            raise refusal(admitted, refused.reason)

    def _intend(self, admitted: Admitted, step: Action, details: Details, *, subject_id: str | None = None) -> None:
        draft = self._audit.draft(admitted.scope, step, subject_id=subject_id, details=details)
        self._audit.record(admitted.scope.tenant_id, draft, Outcome.ALLOWED, reason="intent")


def _about(made: ImportReport) -> Details:
    return {"import_id": made.import_id, "format": made.format.value, "resumed": made.resumed_after is not None}


def _wanted(name: str) -> Format | None:
    if name == "auto":
        return None
    for one in Format:
        if one.value == name:
            return one
    raise ConfigurationError(f"a format is auto, {', '.join(one.value for one in Format)}")


def _manifest_beside(path: Path) -> Path | None:
    beside = manifest_path(path)
    return beside if beside.is_file() else None


def _request(filters: dict[str, object], include_invalid: bool) -> SearchRequest:
    request = parse_filters(filters)
    if request.query is not None:
        raise InvalidFilterError(place="query", reason="is not for an export, which ranks nothing")
    return replace(request, include_invalid=request.include_invalid or include_invalid)


def _manifest(
    out: ExportFile, scope: TenantScope, exported_at: str, request: SearchRequest, filtered: bool
) -> Manifest:
    return Manifest(
        memories=out.hasher.lines,
        people=out.people,
        size_bytes=out.hasher.size_bytes,
        sha256=out.hasher.sha256,
        content_hash=out.hasher.content_hash,
        tenant_id=scope.tenant_id,
        exported_at=exported_at,
        generator=f"luminescent-cloud {importlib.metadata.version('luminescent-cloud')}",
        include_invalid=request.include_invalid,
        filtered=filtered,
    )
