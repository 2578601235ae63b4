"""Laws of alarms: ids and codes of security events alone, never in the way of the sequencer."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from cloud.audit.alerts import WebhookAlerts, alert_of, alerts_to
from cloud.kernel.errors import ConfigurationError
from tests.support.webhooks import Receiver, receiving

EVENT: dict[str, object] = {
    "event_id": "e-1",
    "log_id": "acme",
    "occurred_at": "2026-01-31T08:00:00Z",
    "category": "security",
    "action": "security.event",
    "outcome": "allowed",
    "reason": None,
    "request_id": "r-1",
    "counts": {},
    "details": {"severity": "critical", "sealed": "00ff"},
    "actor": {"id": "someone"},
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_an_alarm_holds_ids_and_codes_and_nothing_sealed() -> None:
    alert = alert_of(EVENT)
    assert alert is not None
    assert alert["severity"] == "critical"
    assert {"details", "actor"}.isdisjoint(alert)


@pytest.mark.parametrize("change", [{"category": "operation"}, {"reason": "authentication:invalid_key"}])
def test_what_is_no_security_event_or_one_failed_login_alarms_nobody(change: dict[str, object]) -> None:
    assert alert_of({**EVENT, **change}) is None


def test_it_is_posted(receiver: Receiver) -> None:
    alerts = WebhookAlerts(receiver.url)
    alert = alert_of(EVENT)
    assert alert is not None
    alerts.send(alert)
    alerts.close()
    assert receiver.got == [alert]


def test_what_cannot_be_delivered_is_said_without_the_url(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.status = 500
    alerts = WebhookAlerts(receiver.url)
    with caplog.at_level(logging.ERROR):
        alerts.send(alert_of(EVENT) or {})
        alerts.close()
    assert len(receiver.got) == 3
    assert "was not delivered: status 500" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("url", ["", "alarm", "ftp://example.com/x", "http://example.com/alarm", "https://"])
def test_a_url_that_nobody_should_post_to_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        alerts_to(url)
