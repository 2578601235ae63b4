"""Administration of API keys; each change commits together with its audit event."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from cloud.audit.model import AuditDraft, Category, Outcome
from cloud.audit.ports import TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.addresses import Range, parse_ranges
from cloud.kernel.clock import Clock, system_clock
from cloud.kernel.errors import (
    ConfigurationError,
    KeyDestroyedError,
    PermissionDeniedError,
    SealBrokenError,
    UnknownTenantError,
)
from cloud.kernel.ids import SYSTEM_LOG, is_tenant_id
from cloud.kernel.scope import Role
from cloud.keys.ports import Keyring
from cloud.tenancy import access_review
from cloud.tenancy.access_review import AccessReview, TokenAccess
from cloud.tenancy.administration import Administration
from cloud.tenancy.bound_keys import bind, ranges_of, user_of
from cloud.tenancy.key_use import KeyUse
from cloud.tenancy.model import ApiKeyRecord, KeyState, is_key_id, new_api_key
from cloud.tenancy.ports import TenantStore
from src.memory.schemas import as_utc
from src.memory.validation import check_user_id

DEFAULT_GRACE: Final = timedelta(days=1)
DEFAULT_STALE: Final = timedelta(days=90)
_LONGEST: Final = timedelta(days=36_500)


class ApiKeys:
    """Creates, rotates, revokes, lists and reviews API keys.

    Args:
        store: Keeps them.
        keyring: Seals what a key says about the person it is bound to.
        admissions: Lets operators in and begins events.
        audit: Records what changed nothing.
        clock: The present, UTC.
        use: What this process has noted of their use and not written yet.
        tokens: What tokens can bring beside the keys, for reviews.
    """

    def __init__(
        self,
        store: TenantStore,
        keyring: Keyring,
        admissions: Administration,
        audit: TransactionalAuditLogger,
        *,
        clock: Clock = system_clock,
        use: KeyUse | None = None,
        tokens: TokenAccess | None = None,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._admissions = admissions
        self._audit = audit
        self._clock = clock
        self._use = use
        self._tokens = tokens

    @telemetry.operation()
    def create(
        self,
        tenant_id: str,
        *,
        roles: Collection[str],
        user_id: str | None = None,
        expires_at: datetime | None = None,
        ip_ranges: Collection[str] = (),
    ) -> str:
        """Make a key and return its text, which is shown this once and kept nowhere.

        Args:
            tenant_id: The tenant it opens.
            roles: `service`, `member`, `tenant_admin` or `auditor`.
            user_id: The person it acts as; required for `member`.
            expires_at: When it stops working; without an offset it is UTC.
            ip_ranges: Where it may be used from, in CIDR notation, IPv4 and IPv6; from anywhere when left out. A key
                with ranges opens nothing for a call that does not say where it comes from.

        Raises:
            UnknownTenantError: There is no such tenant.
            ConfigurationError: No role, an unknown one, or a member without a person.
            InvalidFilterError: The user id or a range is none.
            PermissionDeniedError: The caller is no operator, or the tenant or the person is being erased.
        """
        draft = self._admissions.operate(Action.API_KEY_CREATE)
        with recorded_failure(self._audit, draft):
            allowed = {role.value: role for role in Role if role is not Role.OPERATOR}
            if not roles or any(role not in allowed for role in roles):
                raise ConfigurationError(f"roles of an API key are: {', '.join(sorted(allowed))}")
            if Role.MEMBER.value in roles and user_id is None:
                raise ConfigurationError("a key with the role member needs the person it acts as")
            ranges = parse_ranges(ip_ranges)
            if not is_tenant_id(tenant_id) or self._store.get(tenant_id) is None:
                raise UnknownTenantError()
            text, record = self._made(
                tenant_id,
                frozenset(allowed[role] for role in roles),
                None if user_id is None else check_user_id(user_id),
                ranges,
                as_utc(expires_at) if expires_at else None,
            )
        barred = self._store.add_key(record, replace(draft, details={"key_id": record.key_id}))
        if barred is not None:
            raise PermissionDeniedError(action=draft.action.value, reason=barred)
        return text

    @telemetry.operation()
    def rotate(self, tenant_id: str, key_id: str, *, grace: timedelta = DEFAULT_GRACE) -> str:
        """Make a key with the same roles, person and ranges, and let the old one end after `grace`.

        A key that expires is followed by one that lives as long as it was made for. A key is rotated once; its
        successor can be rotated again.

        Args:
            tenant_id: The tenant.
            key_id: The key to follow.
            grace: How long both open, from zero on.

        Returns:
            The new key's text, which is shown this once and kept nowhere.

        Raises:
            ConfigurationError: There is no such key that still opens, or it was rotated before.
            PermissionDeniedError: The caller is no operator.
        """
        draft = self._admissions.operate(Action.API_KEY_ROTATE)
        with recorded_failure(self._audit, draft):
            if not timedelta(0) <= grace <= _LONGEST:
                raise ConfigurationError("the grace period must be from 0 to 36,500 days")
            old = self._rotatable(tenant_id, key_id)
            now = self._clock()
            lifetime = old.expires_at - old.created_at if old.expires_at and old.created_at else None
            text, record = self._made(
                tenant_id,
                old.roles,
                user_of(self._keyring, old),
                ranges_of(self._keyring, old),
                now + lifetime if lifetime is not None else None,
            )
        draft = replace(draft, details={"key_id": key_id, "successor_id": record.key_id})
        if not self._store.rotate_key(tenant_id, key_id, record, ends_at=now + grace, audit=draft):
            raise ConfigurationError("this key was rotated, revoked or has expired meanwhile")
        return text

    @telemetry.operation()
    def revoke(self, tenant_id: str, key_id: str) -> bool:
        """Revoke a key; it opens nothing from the commit on. `False` if there was no such key to revoke."""
        draft = self._admissions.operate(Action.API_KEY_REVOKE)
        if is_key_id(key_id):
            draft = replace(draft, details={"key_id": key_id})
        return self._store.revoke_key(tenant_id, key_id, draft)

    @telemetry.operation()
    def list(self, tenant_id: str) -> builtins.list[ApiKeyRecord]:
        """The keys of a tenant with their ranges and last use, without their secrets, which nobody has."""
        draft = self._admissions.operate(Action.API_KEY_LIST)
        with recorded_failure(self._audit, draft):
            self._write_use()
            keys = self._shown(self._store.keys(tenant_id))
        self._audit.record(SYSTEM_LOG, draft, Outcome.ALLOWED, counts={"keys": len(keys)})
        return keys

    @telemetry.operation()
    def review(self, tenant_id: str | None = None, *, stale_after: timedelta = DEFAULT_STALE) -> AccessReview:
        """Who may enter with a key, and which keys somebody should look at.

        Args:
            tenant_id: One tenant, whose administrators and auditors may ask too; all of them when left out.
            stale_after: How long a key may rest unused before that is a finding.

        Raises:
            PermissionDeniedError: The caller may not see this.
            AuthenticationError: There is no such tenant.
        """
        if tenant_id is None:
            log_id, draft = SYSTEM_LOG, self._admissions.operate(Action.ACCESS_REVIEW_ALL)
        else:
            log_id, draft = tenant_id, self._admitted(tenant_id)
        with recorded_failure(self._audit, draft, log_id):
            if stale_after <= timedelta(0):
                raise ConfigurationError("a key is stale after more than no time")
            self._write_use()
            keys = self._shown(self._store.all_keys() if tenant_id is None else self._store.keys(tenant_id))
            found = access_review.review(keys, at=self._clock(), stale_after=stale_after, tokens=self._tokens)
        self._audit.record(
            log_id, draft, Outcome.ALLOWED, counts={"keys": len(found.keys), "findings": found.findings()}
        )
        return found

    def _write_use(self) -> None:
        # Of this process at least a report is up to date; others are a minute behind at most.
        if self._use is not None:
            self._use.flush()

    def _admitted(self, tenant_id: str) -> AuditDraft:
        scope = self._admissions.admit_to(tenant_id, Action.ACCESS_REVIEW)
        return self._audit.draft(scope, Action.ACCESS_REVIEW, category=Category.ADMINISTRATION)

    def _rotatable(self, tenant_id: str, key_id: str) -> ApiKeyRecord:
        found = [key for key in self._store.keys(tenant_id) if key.key_id == key_id]
        if not found or found[0].state(self._clock()) is not KeyState.ACTIVE:
            raise ConfigurationError("there is no such key that still opens anything in this tenant")
        if found[0].successor_id is not None:
            raise ConfigurationError(f"this key was rotated before: {found[0].successor_id} follows it")
        return found[0]

    def _made(
        self,
        tenant_id: str,
        roles: frozenset[Role],
        user_id: str | None,
        ip_ranges: tuple[Range, ...],
        expires_at: datetime | None,
    ) -> tuple[str, ApiKeyRecord]:
        key_id, text, secret_hash = new_api_key()
        binding = bind(self._keyring, tenant_id, key_id, user_id=user_id, ip_ranges=ip_ranges)
        return text, ApiKeyRecord(
            key_id=key_id,
            tenant_id=tenant_id,
            secret_hash=secret_hash,
            roles=roles,
            subject_id=binding.subject_id,
            user_sealed=binding.user_sealed,
            expires_at=expires_at,
            revoked_at=None,
            ip_ranges=binding.ip_ranges,
            ranges_sealed=binding.ranges_sealed,
        )

    def _shown(self, records: Iterable[ApiKeyRecord]) -> builtins.list[ApiKeyRecord]:
        shown = []
        for record in records:
            # The person may be erased between the two looks; then the key opens nothing, wherever it is used from.
            with contextlib.suppress(KeyDestroyedError, SealBrokenError):
                record = replace(record, ip_ranges=ranges_of(self._keyring, record))
            shown.append(record)
        return shown
