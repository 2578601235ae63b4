"""A measured process reaches nothing but this machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.nursery import ROOT

_PROGRAM = """
import socket
from tests.bench.embedding import refuse_the_network
refuse_the_network()
try:
    {attempt}
except PermissionError:
    print("refused")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        ("socket.create_connection(('192.0.2.1', 443), timeout=1)", "refused"),
        ("socket.getaddrinfo('telemetry.example', 443)", "refused"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "refused"),
        ("socket.create_connection(('127.0.0.1', 1), timeout=1)", "ConnectionRefusedError"),
        ("socket.socket(socket.AF_UNIX).connect('/nowhere/at/all')", "FileNotFoundError"),
    ],
)
def test_a_measured_process_reaches_this_machine_alone(attempt: str, said: str) -> None:
    # In a process of its own: the hook cannot be taken off again.
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(attempt=attempt)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == said
