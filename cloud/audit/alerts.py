"""Tells somebody of security events: the log of the service, and a webhook where one is configured."""

from __future__ import annotations

import http.client
import json
import logging
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlsplit

from cloud.audit.model import Category
from cloud.kernel.errors import AuthenticationError, ConfigurationError

Alert = Mapping[str, object]
"""Ids and codes of one security event; nothing about its content."""

_FIELDS: Final = ("event_id", "log_id", "occurred_at", "action", "outcome", "reason", "request_id", "counts")
_WAITING: Final = 1_000
_DEADLINE_S: Final = 5.0
_ATTEMPTS: Final = 3
_END: Final = None

_log = logging.getLogger(__name__)


class Alerts(Protocol):
    """Who is told."""

    def send(self, alert: Alert) -> None:
        """Tell of one event; returns at once and never fails, for the event itself is in the audit log already."""
        ...

    def close(self) -> None:
        """Send what waits, for a short while."""
        ...


def alert_of(event: Mapping[str, object]) -> Alert | None:
    """What to tell of an event, if it is one of security; of failed logins the repeated ones, which are one event."""
    if event.get("category") != Category.SECURITY.value:
        return None
    if str(event.get("reason")).startswith(f"{AuthenticationError.code}:"):
        return None
    details = event.get("details")
    severity = details.get("severity") if isinstance(details, Mapping) else None
    return {name: event.get(name) for name in _FIELDS} | {"severity": severity}


class LogAlerts:
    """`Alerts` in the log of the service."""

    def send(self, alert: Alert) -> None:
        _log.warning(
            "security event %s in the audit log of %s: %s %s (%s)",
            alert["event_id"],
            alert["log_id"],
            alert["action"],
            alert["outcome"],
            alert["reason"],
        )

    def close(self) -> None:
        """Nothing waits."""


class WebhookAlerts:
    """`Alerts` to a URL, each as a JSON object by POST; also in the log of the service.

    What cannot be delivered in three attempts, or does not fit into the queue of 1,000, is said in the log of the
    service: the audit log has it in any case.

    Args:
        url: Where to; `https`, or `http` on this machine.

    Raises:
        ConfigurationError: The URL cannot be used.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not local):
            raise ConfigurationError("the alert webhook must be an https URL, or an http URL of this machine")
        self._url = url
        self._log = LogAlerts()
        self._queue: queue.Queue[Alert | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="luminescent-alerts", daemon=True)
        self._thread.start()

    def send(self, alert: Alert) -> None:
        self._log.send(alert)
        try:
            self._queue.put_nowait(alert)
        except queue.Full:
            _log.error("the alert of security event %s was not sent: too many wait", alert["event_id"])

    def close(self) -> None:
        """Send what waits, for at most 5 seconds."""
        try:
            self._queue.put(_END, timeout=_DEADLINE_S)
        except queue.Full:
            return
        self._thread.join(_DEADLINE_S)

    def _run(self) -> None:
        while (alert := self._queue.get()) is not _END:
            for attempt in range(_ATTEMPTS):
                problem = self._posted(alert)
                if problem is None:
                    break
                if attempt == _ATTEMPTS - 1:
                    _log.error("the alert of security event %s was not delivered: %s", alert["event_id"], problem)

    def _posted(self, alert: Alert) -> str | None:
        """What went wrong, or `None`; the URL may hold a secret and is in no message."""
        request = urllib.request.Request(  # noqa: S310 - its scheme was checked
            self._url,
            data=json.dumps(alert, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json"},
            method="POST",
        )
        try:
            with _OPENER.open(request, timeout=_DEADLINE_S) as answer:
                return None if 200 <= answer.status < 300 else f"status {answer.status}"
        except urllib.error.HTTPError as error:
            return f"status {error.code}"
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An alarm goes where the setting says, or nowhere."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def alerts_to(url: str | None) -> Alerts:
    """The alerts of an installation.

    Raises:
        ConfigurationError: The URL cannot be used.
    """
    return LogAlerts() if url is None else WebhookAlerts(url)
