"""`CloudUsageTracker`: quotas that an operation cannot pass, reservations, and summaries of what was used."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from cloud.audit.model import Category
from cloud.audit.ports import Admission, TransactionalAuditLogger
from cloud.audit.recording import recorded_failure
from cloud.kernel import telemetry
from cloud.kernel.access import Action
from cloud.kernel.clock import Clock
from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidFilterError,
    KeyDestroyedError,
    QuotaExceededError,
    UnknownTenantError,
)
from cloud.kernel.ids import SYSTEM_LOG, is_tenant_id, new_event_id
from cloud.keys.ports import Keyring
from cloud.usage.advice import WRITE_METERS, SeenBalances, first_full, meters_of
from cloud.usage.model import Balance, Meter, PeriodUsage, Reservation
from cloud.usage.ports import UsageStore
from cloud.usage.reconciliation import Difference, Reconciliation, UsageBooks
from cloud.usage.reports import Reports
from cloud.usage.reservations import DEFAULT_TTL_S, Reservations

_EVENT_ID_MAX: Final = 256


class CloudUsageTracker:
    """`UsageTracker` and `TransactionalUsageTracker` on the control plane.

    `check_quota` is advice given before an operation; the charge inside the operation's transaction decides. So the
    advice may rest, for a second and while plenty is left, on the balances that the last write saw.

    Args:
        store: Balances, ledger and reservations.
        clock: The present, UTC.
        keyring: Its tenant keys turn foreign event ids, which may say anything, into ids of ledger entries.
    """

    def __init__(self, store: UsageStore, clock: Clock, keyring: Keyring | None = None) -> None:
        self._store = store
        self._clock = clock
        self._keyring = keyring
        self._seen = SeenBalances()
        self._admission: Admission | None = None
        self._audit: TransactionalAuditLogger | None = None
        self._books: UsageBooks | None = None

    def use_books(self, books: UsageBooks) -> None:
        """Let operators reconcile. Called once by start-up: the books are read as another role."""
        self._books = books

    def use_admission(self, admission: Admission, audit: TransactionalAuditLogger) -> None:
        """Let tenancy decide who may see and hold usage, and record who did. Called once by start-up."""
        self._admission = admission
        self._audit = audit

    # Published protocol

    def check_quota(self, tenant_id: str, operation: str) -> tuple[bool, str | None]:
        """Whether one more `operation` fits the tenant's quota, and why not.

        Args:
            tenant_id: The tenant; an unknown one has no quota.
            operation: Writes (`memory.store`, `ingest`, …) use `memories`, `stored_bytes` and `writes`; reads
                (`memory.retrieve`, `query`, …) use `reads`; `generate` uses `tokens`. Others use nothing.
        """
        if not is_tenant_id(tenant_id):
            return False, "unknown tenant"
        meters = meters_of(operation)
        if not meters:
            return True, None
        balances = self._seen.roomy(tenant_id, meters) or self._fresh(tenant_id, meters)
        if balances is None:
            return False, "unknown tenant"
        full = first_full(balances, meters)
        if full is None:
            return True, None
        return False, f"quota '{full.meter.value}' exceeded: {full.used + full.held} of {full.limit} used"

    @telemetry.operation(Action.USAGE_TRACK)
    def track(self, operation: str, tokens: int, metadata: dict[str, object]) -> None:
        """Keep what foreign code used already, committed before this returns. No limit refuses it: it is a fact.

        Args:
            operation: What was done, at most 64 characters.
            tokens: Tokens or units of the meter `tokens`, 0 or more.
            metadata: `tenant_id` names the tenant where nobody is calling, and else may name the caller's;
                `event_id`, 1 to 256 characters, makes repeating the call harmless. Nothing of it is kept in the clear.

        Raises:
            AuthenticationError: No tenant is named, or there is none of that name; or the caller's credential does
                not hold.
            TenantIsolationError: `metadata` names another tenant than the caller's.
            InvalidFilterError: `operation`, `tokens` or `event_id` are out of range.
        """
        admission, audit = self._doors()
        tenant_id = admission.tenant_of_report(Action.USAGE_TRACK, metadata.get("tenant_id"))
        draft = audit.draft(None, Action.USAGE_TRACK, category=Category.EXTERNAL)
        log_id = tenant_id if tenant_id is not None and is_tenant_id(tenant_id) else SYSTEM_LOG
        with recorded_failure(audit, draft, log_id):
            if log_id == SYSTEM_LOG:
                raise AuthenticationError(
                    "no_scope", "usage needs a tenant: set request_context or metadata['tenant_id']"
                )
            if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 2**53:
                raise InvalidFilterError(place="tokens", reason="must be a whole number from 0")
            if not isinstance(operation, str) or not operation.isprintable() or not 0 < len(operation) <= 64:
                raise InvalidFilterError(place="operation", reason="must be 1 to 64 printable characters")
            entry_id = self._entry_id(log_id, metadata.get("event_id"))
            if not self._store.track(log_id, entry_id=entry_id, operation=operation, tokens=tokens, audit=draft):
                raise UnknownTenantError
        telemetry.of_tenant(log_id)

    @telemetry.operation()
    def get_usage_summary(
        self, tenant_id: str, start_date: datetime | None = None, end_date: datetime | None = None
    ) -> dict[str, object]:
        """What the tenant used in a period, in the published shape, and how all its meters stand now.

        Args:
            tenant_id: The tenant.
            start_date: First moment included; the beginning of this month (UTC) when left out.
            end_date: First moment left out; now when left out.

        Returns:
            `total_tokens`, `total_queries`, `total_ingests`, `storage_bytes`, `quota_remaining` (`None` is
            unlimited), `period_start`, `period_end`, `memories` with `used` and `limit`, and in `meters` for each
            meter `used`, `held`, `limit`, `unit` and `resets_at`.

        Raises:
            AuthenticationError: There is no such tenant.
            PermissionDeniedError: The caller may not see this tenant's usage.
        """
        return self._reports().summary(tenant_id, start_date, end_date)

    # Beside it

    @telemetry.operation()
    def daily(self, tenant_id: str, since: datetime | None = None, until: datetime | None = None) -> list[PeriodUsage]:
        """What the tenant used, day by day (UTC), from the ledger; days without an operation are left out.

        Args:
            tenant_id: The tenant.
            since: First moment included; the beginning of this month when left out.
            until: First moment left out; now when left out.

        Raises:
            AuthenticationError: There is no such tenant.
            PermissionDeniedError: The caller may not see this tenant's usage.
        """
        return self._reports().daily(tenant_id, since, until)

    @telemetry.operation()
    def monthly(
        self, tenant_id: str, since: datetime | None = None, until: datetime | None = None
    ) -> list[PeriodUsage]:
        """As `daily`, month by month; the beginning of this year when `since` is left out."""
        return self._reports().monthly(tenant_id, since, until)

    @telemetry.operation()
    def reconcile(
        self,
        tenant_id: str | None = None,
        *,
        repair: bool = False,
        progress: Callable[[Sequence[str]], Iterable[str]] | None = None,
    ) -> list[Difference]:
        """Prove that counters are the sums of the ledger, and stocks what the memories say; for operators.

        Args:
            tenant_id: One tenant; all when left out.
            repair: Mend what differs: counters become what they should be, and where the ledger's stock is not what
                is there, one more entry corrects it. Of a flow the ledger is right.
            progress: Wraps the tenants that are gone through, such as a progress bar.

        Returns:
            What differed, mended or not.

        Raises:
            UnknownTenantError: There is no such tenant.
            PermissionDeniedError: The caller is no operator.
        """
        if self._books is None:
            raise ConfigurationError("the usage tracker was built without its books; use init_cloud_extensions")
        return Reconciliation(self._books, *self._doors()).run(tenant_id, repair=repair, progress=progress)

    @telemetry.operation()
    def reserve(self, tenant_id: str, meter: Meter | str, amount: int, *, ttl_s: float = DEFAULT_TTL_S) -> Reservation:
        """Hold units for work that is about to begin: what is used, held and requested never exceeds the limit.

        Args:
            tenant_id: The tenant.
            meter: A flow: `tokens`, `writes` or `reads`.
            amount: Units, 1 or more.
            ttl_s: Seconds after which the units are free again if nobody settled the reservation; up to a day. A
                process that is killed in between leaks nothing.

        Raises:
            QuotaExceededError: It does not fit; nothing is held.
            InvalidFilterError: `meter`, `amount` or `ttl_s` are out of range.
            AuthenticationError: There is no such tenant, or nobody can be established as the caller.
            PermissionDeniedError: The caller may not, or the tenant is not served.
        """
        return self._reservations().reserve(tenant_id, meter, amount, ttl_s=ttl_s)

    @telemetry.operation()
    def commit(self, reservation: Reservation, actual: int | None = None) -> int:
        """Book what the work used; repeating it books nothing again.

        What was used is a fact: it is booked also where it is more than was held, or where the reservation's time is
        over. Then, and only then, usage may pass the limit, and the next reservation is refused.

        Args:
            reservation: What `reserve` returned.
            actual: Units that were used; all that were held when left out.

        Returns:
            The units booked for this reservation, by this call or an earlier one.

        Raises:
            ReservationClosedError: It was released, or there is none of that id.
            InvalidFilterError: `actual` is no whole number from 0.
        """
        return self._reservations().commit(reservation, actual)

    @telemetry.operation()
    def release(self, reservation: Reservation) -> None:
        """Give the units back; harmless for a reservation that is committed, released or expired.

        Raises:
            ReservationClosedError: There is none of that id.
        """
        self._reservations().release(reservation)

    # TransactionalUsageTracker

    def observed(self, tenant_id: str, balances: Sequence[Balance]) -> None:
        self._seen.note(tenant_id, balances)

    def denied(self, tenant_id: str, *, requested: int) -> QuotaExceededError | None:
        seen = self._seen.last(tenant_id)
        full = first_full(seen, [meter for meter in WRITE_METERS if meter in seen])
        if full is None or full.limit is None or full.meter is Meter.STORED_BYTES:
            # How many bytes it takes is known when it is sealed.
            return None
        return QuotaExceededError(
            meter=full.meter.value,
            limit=full.limit,
            used=full.used + full.held,
            requested=requested,
            resets_at=full.meter.resets_at(self._clock()),
        )

    def exceeded(
        self, tenant_id: str, *, meter: str, used: int, limit: int, requested: int, resets_at: datetime | None
    ) -> QuotaExceededError:
        if meter != Meter.MEMORIES_PER_SUBJECT:
            self._seen.note(tenant_id, [Balance(Meter(meter), used=used, limit=limit)])
        return QuotaExceededError(meter=meter, limit=limit, used=used, requested=requested, resets_at=resets_at)

    def _fresh(self, tenant_id: str, meters: Sequence[Meter]) -> dict[Meter, Balance] | None:
        balances = self._store.balances(tenant_id, meters)
        if balances is not None:
            self._seen.note(tenant_id, list(balances.values()))
        return balances

    def _entry_id(self, tenant_id: str, event_id: object) -> str:
        if event_id is None:
            return new_event_id()
        if not isinstance(event_id, str) or not 0 < len(event_id) <= _EVENT_ID_MAX:
            raise InvalidFilterError(place="metadata.event_id", reason="must be 1 to 256 characters")
        if self._keyring is None:
            raise ConfigurationError("the usage tracker was built without a keyring; use init_cloud_extensions")
        try:
            # The first it had: a report that is repeated after a rotation must be recognized.
            secret = self._keyring.tenant_key(tenant_id).first
        except KeyDestroyedError as exc:
            raise UnknownTenantError from exc
        # It may say anything, a user id included: the ledger keeps an HMAC, by which another tenant's id is another.
        digest = hmac.digest(secret, b"usage\0" + event_id.encode("utf-8", "surrogatepass"), "sha256")
        return str(_uuid_of(digest))

    def _reports(self) -> Reports:
        return Reports(self._store, self._clock, *self._doors())

    def _reservations(self) -> Reservations:
        return Reservations(self._store, *self._doors())

    def _doors(self) -> tuple[Admission, TransactionalAuditLogger]:
        if self._admission is None or self._audit is None:
            raise ConfigurationError("the usage tracker was built without tenancy; use init_cloud_extensions")
        return self._admission, self._audit


def _uuid_of(digest: bytes) -> uuid.UUID:
    """A UUIDv8 (RFC 9562 §5.8) of the first bits of a digest."""
    bits = int.from_bytes(digest[:16])
    return uuid.UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62)
