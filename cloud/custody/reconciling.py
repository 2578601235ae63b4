"""Compares a keyring with the control plane, and lets only the right one serve.

A keyring from earlier brings back the keys of people who were erased since, and of tenants that were closed. Nothing
that they sealed may become readable again, so their keys are destroyed once more before anything is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloud.audit.model import Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.custody.model import Reconciled
from cloud.custody.ports import CustodyStore, KeptKeyring
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import ConfigurationError
from cloud.kernel.ids import SYSTEM_LOG
from cloud.keys.diagnosis import identity
from cloud.keys.inspection import mark_of
from cloud.tenancy.system import system_predicate

_CHUNK: Final = 5_000
_COMPONENT: Final = "custody"
_INSTALLATION: Final = "operator"
"""Tenant id in the scope of an actor without a tenant: nothing is read or linked under it."""


def reconcile(keyring: KeptKeyring, store: CustodyStore) -> Reconciled:
    """Destroys again what had been erased, and counts whom the keyring lacks.

    Raises:
        ErasureIncompleteError: A slot still shows its key after it was overwritten.
        ProviderUnavailableError: The control plane or the keyring did not answer.
    """
    destroyed = unreadable = without_key = 0
    known = set(keyring.files.register.tenants())
    # Of a closed tenant no row names anybody any more, so all of it goes. One that is being closed is left to that, and
    # one that is not known here may be another database's.
    closed = sum(keyring.destroy_tenant(tenant_id) for tenant_id in store.closed(known))
    for tenant_id in store.tenants():
        # Else somebody new would be given the key, and with it the memories, of whoever came after this copy was made.
        keyring.drop_spares(tenant_id)
        subjects = keyring.subjects(tenant_id)
        for start in range(0, len(subjects), _CHUNK):
            for subject_id in store.erased(tenant_id, subjects[start : start + _CHUNK]):
                destroyed += keyring.destroy_subject(tenant_id, subject_id)
        unreadable += len(set(store.living(tenant_id)) - set(subjects))
        without_key += tenant_id not in known
    return Reconciled(destroyed, closed, unreadable, without_key)


def counts_of(reconciled: Reconciled) -> dict[str, int]:
    """The counts, as an audit event has them."""
    return {
        "destroyed_again": reconciled.destroyed_again,
        "tenants_destroyed_again": reconciled.tenants_destroyed_again,
        "unreadable": reconciled.unreadable,
        "tenants_without_key": reconciled.tenants_without_key,
    }


def admit_keyring(
    keyring: KeptKeyring, store: CustodyStore, audit: TransactionalAuditLogger, clock: Clock, *, is_new: bool
) -> None:
    """Lets a keyring serve only if it is the one that was seen last, or came of it; it is remembered then.

    Args:
        keyring: The keyring that was found.
        store: Tells which was seen last.
        audit: Records what is destroyed again.
        clock: The present, UTC.
        is_new: Whether the installation has no tenant yet: then any keyring may be its first.

    Raises:
        ConfigurationError: It is another one, or a copy from earlier. Who had been erased is destroyed in it already.
    """
    found = mark_of(keyring.files)
    if is_new:
        store.settle(found, clock())
        return
    findings = identity(found, store.seen())
    if not findings:
        store.note(found, clock())
        return
    (finding,) = findings
    advice = [finding.message]
    if finding.code == "keyring_older":
        scope = system_predicate(_INSTALLATION, _COMPONENT).scope
        draft = audit.draft(scope, Action.KEYRING_RECONCILE, category=Category.ADMINISTRATION)
        with recorded_failure(audit, draft):
            reconciled = reconcile(keyring, store)
        audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, reason=finding.code, counts=counts_of(reconciled))
        advice.append(described(reconciled))
    raise ConfigurationError(". ".join((*advice, finding.remedy)))


def described(reconciled: Reconciled) -> str:
    """What was found and done, in a sentence."""
    parts: Sequence[str] = (
        f"{reconciled.destroyed_again} people who had been erased were in it again and are destroyed again",
        f"{reconciled.tenants_destroyed_again} tenants that had been closed were, too",
        f"{reconciled.unreadable} people have memories and no key in it",
        f"{reconciled.tenants_without_key} tenants have no key in it",
    )
    return "; ".join(parts)
