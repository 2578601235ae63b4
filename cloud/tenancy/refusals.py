"""Refusals of strangers, who belong to no tenant: each is counted durably before it is answered, few are events.

The log of one source grows by at most `each + 1` events a minute, and there are at most `sources + 1` sources a minute,
whatever the load: the first `each` failures are recorded one by one, the others are counted, and when the minute is
over one event says how many there were and why. What was counted survives every crash; it is reported by the worker,
by the next new source of any process, or at the next start.

A source is an API key that was shown and exists, else where the caller comes from, else `unknown`. An address is kept
as an HMAC under a key that changes every day, so that it can be told apart and not read, and not followed for longer.
"""

from __future__ import annotations

import hmac
import logging
from datetime import datetime
from typing import Final

from cloud.audit.model import Actor, AuditDraft, Category, reason_of
from cloud.kernel.access import Action
from cloud.kernel.addresses import Address, site_of
from cloud.kernel.clock import Clock
from cloud.kernel.context import current_context
from cloud.kernel.errors import AuthenticationError, LuminescentError, ProviderUnavailableError
from cloud.kernel.ids import SYSTEM_LOG, new_event_id, new_request_id
from cloud.kernel.scope import PrincipalKind
from cloud.keys.ports import Keyring
from cloud.tenancy.ports import RefusalStore

UNKNOWN: Final = "unknown"
_REPORT_BATCH: Final = 200
_DOMAIN: Final = b"luminescent refused source 1"
_TAG_CHARACTERS: Final = 16

_log = logging.getLogger(__name__)


class Refusals:
    """Counts refusals and reports the counts.

    Args:
        store: Keeps counts, and appends events in the same transaction.
        keyring: Holds the key under which addresses are kept.
        clock: The present, UTC.
        each: Failures of one source in one minute that get an event of their own, at least 1.
        sources: Sources in one minute that are told apart, at least 1.
    """

    def __init__(self, store: RefusalStore, keyring: Keyring, clock: Clock, *, each: int, sources: int) -> None:
        self._store = store
        self._keyring = keyring
        self._clock = clock
        self._each = each
        self._sources = sources

    def count(self, draft: AuditDraft, error: LuminescentError) -> None:
        """Count a refusal, and record it if it is one of the first; durable when this returns.

        Raises:
            ProviderUnavailableError: It could not be counted.
        """
        source = self._source(error)
        counted = self._store.count(source, draft, reason_of(error), each=self._each, sources=self._sources)
        if counted.due:
            try:
                self.report()
            except ProviderUnavailableError as late:
                # Nothing is lost: the counts stay until somebody reports them.
                _log.warning("refusals of earlier minutes are reported later: %s", late)

    def report(self) -> int:
        """Report every minute that is over; returns how many counts were taken.

        Raises:
            ProviderUnavailableError: They could not be reported; they stay.
        """
        done = 0
        while taken := self._store.report(_report(), [new_event_id() for _ in range(_REPORT_BATCH)]):
            done += taken
            if taken < _REPORT_BATCH:
                break
        return done

    def _source(self, error: LuminescentError) -> str:
        if isinstance(error, AuthenticationError) and error.key_id is not None:
            return f"key:{error.key_id}"
        ambient = current_context()
        address = ambient.client_address if ambient else None
        return UNKNOWN if address is None else f"address:{self._tag(address, self._clock())}"

    def _tag(self, address: Address, now: datetime) -> str:
        key = self._keyring.tenant_key(SYSTEM_LOG).key
        of_today = hmac.digest(key, _DOMAIN + now.date().isoformat().encode("ascii"), "sha256")
        return hmac.new(of_today, site_of(address).encode("ascii"), "sha256").hexdigest()[:_TAG_CHARACTERS]


def _report() -> AuditDraft:
    return AuditDraft(
        action=Action.AUTHENTICATION_FAILURES,
        actor=Actor(PrincipalKind.SYSTEM, "refusals"),
        request_id=new_request_id(),
        category=Category.SECURITY,
    )
