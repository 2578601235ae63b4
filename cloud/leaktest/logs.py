"""Watches what the process logs while a leak test runs: a canary in a log line is shown to whoever reads logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cloud.leaktest.canaries import Canaries
from cloud.leaktest.report import Check, Findings


class _Watch(logging.Handler):
    def __init__(self, canaries: Canaries, findings: Findings) -> None:
        super().__init__(logging.DEBUG)
        self._canaries = canaries
        self._findings = findings
        self.setFormatter(logging.Formatter("%(name)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._findings.tried("log", Check.RECORDS)
        for canary in self._canaries.words_in(self.format(record)):
            self._findings.leaked("log", Check.RECORDS, f"a line of {record.name} shows {canary.place}", canary.value)


@contextmanager
def watched_logs(canaries: Canaries, findings: Findings) -> Iterator[None]:
    """Every line that any library logs while the block runs is looked at, those that are not shown included."""
    root, watch = logging.getLogger(), _Watch(canaries, findings)
    level, levels = root.level, [(handler, handler.level) for handler in root.handlers]
    # The handlers that are there go on showing what they showed.
    for handler, at in levels:
        handler.setLevel(max(at, level))
    root.addHandler(watch)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(watch)
        for handler, at in levels:
            handler.setLevel(at)
