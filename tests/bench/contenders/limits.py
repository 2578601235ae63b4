"""What the machine itself takes: a bare committed INSERT, a dot product and one round trip."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import psycopg
from numpy.typing import NDArray

from src.memory.embedding import WordLlamaEmbedder
from tests.bench.contender import LIMIT, Place
from tests.bench.data import Item
from tests.bench.databases import database_bytes, plain

BODY_BYTES = 300


class Limits:
    """Not a memory: the floor under every store that commits, and under every read that asks anybody."""

    title: ClassVar[str] = "physical limits"
    persistent: ClassVar[bool] = True
    callers: ClassVar[Literal["tasks", "threads"]] = "threads"
    operations: ClassVar[frozenset[str]] = frozenset({"store", "retrieve"})
    failures: ClassVar[tuple[type[Exception], ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ("psycopg", "numpy")

    def set_up(self, place: Place) -> None:
        self._url = place.database
        self._local = threading.local()
        self._embedder = WordLlamaEmbedder()
        self._vectors: dict[str, NDArray[np.float32]] = {}
        self._connections: list[psycopg.Connection[tuple[object, ...]]] = []
        self._connection().execute(
            "CREATE TABLE floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL)"
        )

    def load(self, people: Mapping[str, Sequence[Item]]) -> None:
        for person, items in people.items():
            self._vectors[person] = self._embedder.embed([item.text for item in items])

    def settle(self) -> None:
        """It has no background."""

    def store(self, person: str, item: Item) -> str:
        """One row, committed: no index but the key, no embedding."""
        body = item.text.encode().ljust(BODY_BYTES, b".")
        row = self._connection().execute("INSERT INTO floor (body) VALUES (%s) RETURNING id", [body]).fetchone()
        assert row is not None
        return str(row[0])

    def retrieve(self, person: str, query: str) -> int:
        """The query embedded, multiplied with the person's matrix, the best chosen, and `SELECT 1`."""
        scores = self._vectors[person] @ self._embedder.embed([query])[0]
        best = np.argpartition(-scores, LIMIT)[:LIMIT]
        self._connection().execute("SELECT 1").fetchone()
        return len(best)

    def cool(self) -> None:
        raise NotImplementedError

    def search(self, person: str) -> int:
        raise NotImplementedError

    def search_text(self, person: str, query: str) -> int:
        raise NotImplementedError

    def delete(self, person: str, memory_id: str) -> None:
        raise NotImplementedError

    def disk_bytes(self) -> int:
        return database_bytes(self._url)

    def helpers(self) -> Sequence[int]:
        return []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _connection(self) -> psycopg.Connection[tuple[object, ...]]:
        """The caller's own; threads of later rounds get a new one."""
        connection: psycopg.Connection[tuple[object, ...]] | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = psycopg.connect(plain(self._url), autocommit=True)
            connection.prepare_threshold = 0
            self._connections.append(connection)
        return connection
