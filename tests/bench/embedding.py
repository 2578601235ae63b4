"""One embedding function for everybody: WordLlama's 256 dimensions, as this project's embedder makes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from src.memory.embedding import WordLlamaEmbedder

DIMENSIONS = 256
MODEL = WordLlamaEmbedder()


def embed(texts: Sequence[str]) -> list[list[float]]:
    """For LangGraph: one vector a text."""
    return [[float(number) for number in row] for row in MODEL.embed(texts)]


def refuse_the_network() -> None:
    """From now on this process reaches nothing but this machine: no telemetry, no downloads.

    Whoever tries gets a `PermissionError`. A hook of the interpreter cannot be taken off again.
    """
    sys.addaudithook(_loopback_alone)


def _loopback_alone(event: str, arguments: tuple[Any, ...]) -> None:
    match event:
        case "socket.connect" | "socket.sendto":
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) else None  # a path is a socket of this machine
        case "socket.getaddrinfo":
            host = arguments[0]
        case _:
            return
    if host not in (None, "", "localhost", "127.0.0.1", "::1", b"localhost", b"127.0.0.1"):
        raise PermissionError("a measured process may reach nothing but this machine")
