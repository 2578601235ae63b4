"""`Certifier` of an installation: finds what the audit log says of an erasure, and signs with the audit log's keys.

The commitment to the person is made while the caller names it, before its key is destroyed, and is kept sealed under
the tenant's key: from then on the installation itself can no longer tell whom an erasure was about, and the salt that
would let somebody guess is handed out with the certificate to who may erase, and to nobody else.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from cloud.audit.keyfile import AuditKeys
from cloud.audit.model import Outcome
from cloud.audit.proofs import Leaf, Proven
from cloud.gdpr.certificate import (
    Commitment,
    body_of,
    certificate_body,
    handed_out_text,
    kept_text,
    sealed_of,
    tells_levels,
)
from cloud.gdpr.model import Erasure
from cloud.gdpr.verify import SALT_BYTES
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, SealBrokenError
from cloud.keys.model import Place
from cloud.keys.ports import Keyring, Sealer

_KIND: Final = "commitment"


class Witnesses(Protocol):
    """The audit log, asked for what it says of one erasure."""

    def latest(self, log_id: str, like: Mapping[str, object]) -> Leaf | None:
        """The latest event of a log that contains all of `like`."""
        ...

    def proven(self, log_id: str, leaves: Sequence[Leaf]) -> Proven:
        """These leaves of a log, proven against its present head."""
        ...

    def keys(self) -> AuditKeys:
        """The keys as they are now."""
        ...


class Certificates:
    """`Certifier` on the audit log.

    Args:
        log: The audit log.
        keyring: Has the tenants' keys.
        sealer: Seals commitments.
        clock: The present, UTC.
        software: The version that issues.
    """

    def __init__(self, log: Witnesses, keyring: Keyring, sealer: Sealer, clock: Clock, software: str) -> None:
        self._log = log
        self._keyring = keyring
        self._sealer = sealer
        self._clock = clock
        self._software = software

    def commit(self, tenant_id: str, subject_id: str | None, user_id: str) -> bytes:
        commitment = Commitment.to(user_id, secrets.token_bytes(SALT_BYTES))
        key = self._keyring.tenant_key(tenant_id).key
        return self._sealer.seal(key, commitment.bytes(), place=_place(tenant_id, subject_id))

    def is_current(self, erasure: Erasure) -> bool:
        return erasure.certificate is not None and tells_levels(erasure.certificate, erasure.levels)

    def certify(self, erasure: Erasure, user_id: str | None) -> str:
        """Raises also `ProviderUnavailableError` while the log's sequencer does not catch up, and `ConfigurationError`
        where the log does not say that this erasure ended well."""
        previous = erasure.certificate
        sealed = sealed_of(previous) if previous is not None else erasure.commitment_sealed
        if sealed is None and previous is None and user_id is not None:
            sealed = self.commit(erasure.tenant_id, erasure.subject_id, user_id)
        earlier = body_of(previous) if previous is not None else None
        keys = self._log.keys()
        body = certificate_body(
            erasure,
            self._log.proven(erasure.tenant_id, self._leaves(erasure, earlier)),
            keys,
            person=earlier["person"] if earlier is not None else self._person(erasure, sealed),
            previous=earlier,
            software=self._software,
            now=self._clock(),
        )
        return kept_text(body, keys, sealed)

    def hand_out(self, tenant_id: str, certificate: str) -> str:
        subject_id = body_of(certificate)["subject"]
        assert subject_id is None or isinstance(subject_id, str)
        opened = self._opened(tenant_id, subject_id, sealed_of(certificate))
        return handed_out_text(certificate, opened.salt if opened is not None else None)

    def _person(self, erasure: Erasure, sealed: bytes | None) -> Mapping[str, object] | None:
        opened = self._opened(erasure.tenant_id, erasure.subject_id, sealed)
        return opened.document() if opened is not None else None

    def _leaves(self, erasure: Erasure, previous: Mapping[str, object] | None) -> list[Leaf]:
        """The event that announced the erasure, if it was one of something, and the event of its end."""
        if previous is not None:
            # The log has grown since, and need not be searched again: a leaf keeps its place.
            return [_leaf(witness) for name in ("intent", "outcome") if (witness := previous[name]) is not None]
        about = {"subject_id": erasure.subject_id, "details": {"erasure_id": erasure.erasure_id}}
        outcome = {
            **about,
            "action": (Action.TENANT_CLOSE if erasure.whole_tenant else Action.ERASURE).value,
            "outcome": Outcome.ALLOWED.value,
            # One that only joined another names no counts.
            "counts": dict(erasure.counts),
        }
        wanted = [outcome]
        if erasure.whole_tenant or erasure.subject_id is not None:
            begun = Action.TENANT_CLOSE_STEP if erasure.whole_tenant else Action.ERASURE_STEP
            wanted.insert(0, {**about, "action": begun.value, "reason": "intent"})
        found = [self._log.latest(erasure.tenant_id, like) for like in wanted]
        leaves = [leaf for leaf in found if leaf is not None]
        if len(leaves) != len(wanted):
            raise ConfigurationError(
                f"erasure {erasure.erasure_id} cannot be certified: the audit log does not show both its beginning and"
                " its end; see luminescent-cloud doctor"
            )
        return leaves

    def _opened(self, tenant_id: str, subject_id: str | None, sealed: bytes | None) -> Commitment | None:
        """The commitment, as long as the tenant has a key."""
        if sealed is None:
            return None
        try:
            keys = self._keyring.tenant_key(tenant_id).versions
        except KeyDestroyedError:
            return None
        for at, key in enumerate(keys, start=1):
            try:
                return Commitment.parse(self._sealer.unseal(key, sealed, place=_place(tenant_id, subject_id)))
            except SealBrokenError:
                if at == len(keys):
                    raise
        return None


def _leaf(witness: object) -> Leaf:
    match witness:
        case {"event": dict(event), "index": int(index)}:
            return Leaf(index, event)
    raise ConfigurationError("the certificate that is kept is damaged")


def _place(tenant_id: str, subject_id: str | None) -> Place:
    # Of the subject and not of a request: one that joins another brings its commitment along.
    return Place(tenant_id, subject_id or "", "", _KIND)
