"""Writing memories: sealed, decided in one transaction, then shown to this process's own readers."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol, assert_never, runtime_checkable

from cloud.audit.model import Details, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.kernel import failpoints, telemetry, telemetry_names
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    IdempotencyConflictError,
    KeyDestroyedError,
    LuminescentError,
    PermissionDeniedError,
    QuotaExceededError,
)
from cloud.kernel.ids import new_memory_id, parse_memory_id
from cloud.keys.envelope import Envelope, encode_envelope
from cloud.keys.model import SubjectKey
from cloud.memory.config import PixeltableConfig
from cloud.memory.model import SealedRow
from cloud.memory.ports import (
    Absent,
    Deleted,
    IdempotencyTag,
    KeyConflict,
    Stored,
    SubjectGone,
    TenantRefused,
)
from cloud.memory.snapshots import SnapshotLoader
from cloud.memory.vectors import envelope_place
from cloud.tenancy.admission import Admitted
from cloud.usage.ports import QuotaRefusal, TransactionalUsageTracker
from src.extensions import UsageTracker
from src.memory.schemas import Memory

_INCARNATIONS: Final = 3


@runtime_checkable
class UsageGate(UsageTracker, TransactionalUsageTracker, Protocol):
    """A tracker that gives advice and takes part in the transaction."""


class MemoryWriter:
    """Stores and deletes memories of admitted callers."""

    def __init__(
        self,
        config: PixeltableConfig,
        loader: SnapshotLoader,
        audit: TransactionalAuditLogger,
        usage: UsageGate,
    ) -> None:
        self._config = config
        self._loader = loader
        self._audit = audit
        self._usage = usage

    def store(self, admitted: Admitted, memories: Sequence[Memory], *, idempotency_key: str | None) -> tuple[str, ...]:
        """Accept all memories or none, and return their ids in order.

        Args:
            admitted: The operation.
            memories: Validated memories.
            idempotency_key: Repeating a call with the same key and memories stores nothing twice.

        Raises:
            QuotaExceededError: They do not all fit; nothing was stored.
            IdempotencyConflictError: The key stood for other memories before.
            AuthenticationError: There is no such tenant.
            PermissionDeniedError: The tenant is not active, or a person is being erased.
            ProviderUnavailableError: The control plane did not answer; repeat with an idempotency key.
        """
        if not memories:
            self.served(admitted)
            self._audit.record(admitted.scope.tenant_id, admitted.draft, Outcome.ALLOWED, counts={"stored": 0})
            return ()
        if idempotency_key is None:
            # A repeated request must get its ids back even where the quota has filled up since.
            self._check_quota(admitted, len(memories))
        ids = [new_memory_id() for _ in memories]
        for _ in range(_INCARNATIONS):
            try:
                tag = self.tag(admitted, memories, idempotency_key)
                people = self._people(admitted, memories)
            except KeyDestroyedError as keyless:
                self.served(admitted)
                raise ConfigurationError(
                    "the keyring lacks this tenant's key; restore the keyring from its backup"
                ) from keyless
            rows = [
                self.sealed(people[memory.user_id], memory_id, memory)
                for memory_id, memory in zip(ids, memories, strict=True)
            ]
            failpoints.reach("store.sealed")
            answer = self._config.ledger.store(admitted.predicate, rows, tag, admitted.draft)
            match answer:
                case Stored():
                    failpoints.reach("store.committed")
                    telemetry.note(telemetry_names.STORED, len(answer.ids))
                    self._show(answer, rows, people)
                    return answer.ids
                case QuotaRefusal():
                    raise self.full(admitted, answer)
                case KeyConflict():
                    raise IdempotencyConflictError
                case TenantRefused(reason=reason):
                    raise refusal(admitted, reason)
                case SubjectGone():
                    self._forget(people)
                case _:
                    assert_never(answer)
        error = PermissionDeniedError(action=admitted.draft.action.value, reason="erasure_in_progress")
        self._audit.record(admitted.scope.tenant_id, admitted.draft, Outcome.DENIED, reason="erasure_in_progress")
        raise error

    def delete(self, admitted: Admitted, memory_id: str) -> bool:
        """Delete one memory softly; `False` for one that is absent, foreign or not the caller's, all alike.

        Raises:
            AuthenticationError: There is no such tenant.
            PermissionDeniedError: The tenant is not active.
            ProviderUnavailableError: The control plane did not answer.
        """
        known = parse_memory_id(memory_id)
        # A malformed id takes the same way as an unknown one: the answer and its event are the ledger's.
        answer = self._config.ledger.delete(
            admitted.predicate,
            known or new_memory_id(),
            restricted=admitted.only_own,
            own_subject_id=self.own_subject(admitted),
            audit=admitted.draft,
        )
        match answer:
            case Deleted(subject_id=subject_id, generation=generation):
                failpoints.reach("delete.committed")
                if subject_id is not None and generation is not None and known is not None:
                    self._loader.retreat(admitted.scope.tenant_id, subject_id, generation, known)
                return True
            case Absent():
                return False
            case TenantRefused(reason=reason):
                raise refusal(admitted, reason)
            case _:
                assert_never(answer)

    def full(self, admitted: Admitted, answer: QuotaRefusal) -> QuotaExceededError:
        """The error for a write that was not admitted."""
        return self._usage.exceeded(
            admitted.scope.tenant_id,
            meter=answer.meter,
            used=answer.used,
            limit=answer.limit,
            requested=answer.requested,
            resets_at=answer.resets_at,
        )

    def own_subject(self, admitted: Admitted) -> str | None:
        """The subject id of the caller, if the caller may touch its own memories alone and has any."""
        user_id = admitted.scope.principal.user_id
        if not admitted.only_own or user_id is None:
            return None
        person = self._config.keyring.resolve_subject(admitted.scope.tenant_id, user_id, create=False)
        return person.subject_id if person else None

    def served(self, admitted: Admitted) -> None:
        """Record and raise the refusal of a tenant that is not served."""
        refused = self._config.ledger.refusal(admitted.predicate)
        if refused is not None:
            self._audit.record(admitted.scope.tenant_id, admitted.draft, Outcome.DENIED, reason=refused.reason)
            raise refusal(admitted, refused.reason)

    def _check_quota(self, admitted: Admitted, requested: int) -> None:
        tenant_id = admitted.scope.tenant_id
        allowed, _ = self._usage.check_quota(tenant_id, admitted.draft.action.value)
        if allowed:
            return
        error = self._usage.denied(tenant_id, requested=requested)
        if error is not None:
            self.served(admitted)
            facts: Details = {
                "meter": error.meter,
                "resets_at": error.resets_at.isoformat() if error.resets_at else None,
            }
            draft = replace(admitted.draft, details={**admitted.draft.details, **facts})
            counts = {"requested": requested, "used": error.used, "limit": error.limit}
            self._audit.record(tenant_id, draft, Outcome.DENIED, reason=error.code, counts=counts)
            raise error

    def _people(self, admitted: Admitted, memories: Sequence[Memory]) -> dict[str, SubjectKey]:
        tenant_id = admitted.scope.tenant_id
        people: dict[str, SubjectKey] = {}
        for user_id in dict.fromkeys(memory.user_id for memory in memories):
            person = self._config.keyring.resolve_subject(tenant_id, user_id, create=False)
            if person is None:
                # Nobody new is linked to a tenant that is not served.
                self.served(admitted)
                person = self._config.keyring.resolve_subject(tenant_id, user_id, create=True)
                assert person is not None
            people[user_id] = person
        return people

    def _forget(self, people: dict[str, SubjectKey]) -> None:
        # One of them is erased, and the keyring's copy in this process is older than that.
        for person in people.values():
            self._config.keyring.forget(person.tenant_id, person.subject_id)
            self._config.hot.drop(person.tenant_id, person.subject_id)

    def sealed(self, person: SubjectKey, memory_id: str, memory: Memory, *, revision: int = 1) -> SealedRow:
        """A revision of a memory, sealed for its person."""
        envelope = encode_envelope(
            Envelope(
                user_id=memory.user_id,
                content=memory.content,
                source=memory.source,
                raw_source=memory.raw_source,
                extraction_version=memory.extraction_version,
                metadata=memory.metadata,
                provenance=memory.provenance,
            )
        )
        place = envelope_place(person.tenant_id, person.subject_id, memory_id)
        return SealedRow(
            memory_id=memory_id,
            tenant_id=person.tenant_id,
            subject_id=person.subject_id,
            revision=revision,
            generation=0,
            memory_type=memory.memory_type.value,
            confidence=memory.confidence,
            created_at=memory.created_at,
            expires_at=memory.expires_at,
            envelope=self._config.sealer.seal(person.key, envelope, place=place),
        )

    def tag(
        self, admitted: Admitted, memories: Sequence[Memory], idempotency_key: str | None, *, superseded: str = ""
    ) -> IdempotencyTag | None:
        """What the control plane may know of an idempotency key and of the request it stands for."""
        if idempotency_key is None:
            return None
        # The caller's key may be anything, a user id included: what is kept is an HMAC under the tenant's key, the
        # first it had: a request that is repeated after a rotation must be recognized.
        secret = self._config.keyring.tenant_key(admitted.scope.tenant_id).first
        request = json.dumps(
            [memory.model_dump(mode="json", exclude={"id", "created_at", "last_accessed_at"}) for memory in memories],
            sort_keys=True,
        )
        # A memory that takes another's place is another request than the same one stored.
        request += superseded
        digest = hashlib.sha256(request.encode("utf-8", "surrogatepass")).digest()
        return IdempotencyTag(
            key=hmac.digest(secret, b"key\0" + idempotency_key.encode("utf-8", "surrogatepass"), "sha256"),
            fingerprint=hmac.digest(secret, b"request\0" + digest, "sha256"),
        )

    def _show(self, answer: Stored, rows: Sequence[SealedRow], people: dict[str, SubjectKey]) -> None:
        """Let this process's next reader find what was written, without a load."""
        if answer.balances and rows:
            self._usage.observed(rows[0].tenant_id, answer.balances)
        for person in people.values():
            generation = answer.generations.get(person.subject_id)
            if generation is not None:
                mine = rows if len(people) == 1 else [row for row in rows if row.subject_id == person.subject_id]
                self._loader.advance(generation, mine, person)


def refusal(admitted: Admitted, reason: str) -> LuminescentError:
    """The error for a tenant that is not served; the refusal is recorded already."""
    if reason == "unknown_tenant":
        return AuthenticationError(reason, "there is no such tenant")
    return PermissionDeniedError(action=admitted.draft.action.value, reason=reason)
