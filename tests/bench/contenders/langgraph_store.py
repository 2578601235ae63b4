"""LangGraph's `PostgresStore` with vector search, on the same PostgreSQL, in a database of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Literal

os.environ |= {"LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}

import psycopg
import psycopg_pool
from langgraph.store.base import PutOp
from langgraph.store.postgres import PostgresStore

from tests.bench.contender import LIMIT, MIN_CONFIDENCE, OPERATIONS, SEARCH_LIMIT, NothingFoundError, Place
from tests.bench.data import Item
from tests.bench.databases import database_bytes, plain
from tests.bench.embedding import DIMENSIONS, embed

_AT_ONCE = 200
_FILTER = {"memory_type": "fact", "confidence": {"$gte": MIN_CONFIDENCE}}


class LangGraphStore:
    """A namespace per person, the text indexed, its own default index, as many connections as callers."""

    title: ClassVar[str] = "LangGraph PostgresStore"
    persistent: ClassVar[bool] = True
    callers: ClassVar[Literal["tasks", "threads"]] = "threads"
    operations: ClassVar[frozenset[str]] = frozenset(OPERATIONS)
    failures: ClassVar[tuple[type[Exception], ...]] = (psycopg.Error, psycopg_pool.PoolTimeout, NothingFoundError)
    packages: ClassVar[tuple[str, ...]] = ("langgraph", "langgraph-checkpoint-postgres", "psycopg", "wordllama")

    def set_up(self, place: Place) -> None:
        self._place = place
        self._open()
        self._store.setup()

    def load(self, people: Mapping[str, Sequence[Item]]) -> None:
        puts = [
            PutOp(_namespace(person), str(uuid.uuid4()), _value(item))
            for person, items in people.items()
            for item in items
        ]
        for start in range(0, len(puts), _AT_ONCE):
            self._store.batch(puts[start : start + _AT_ONCE])

    def settle(self) -> None:
        """It has no background."""

    def store(self, person: str, item: Item) -> str:
        key = str(uuid.uuid4())
        self._store.put(_namespace(person), key, _value(item))
        return key

    def retrieve(self, person: str, query: str) -> int:
        return len(self._store.search(_namespace(person), query=query, limit=LIMIT))

    def cool(self) -> None:
        """It keeps no memories in the process; its connections are made anew."""
        self._stack.close()
        self._open()

    def search(self, person: str) -> int:
        return len(self._store.search(_namespace(person), filter=_FILTER, limit=SEARCH_LIMIT))

    def search_text(self, person: str, query: str) -> int:
        return len(self._store.search(_namespace(person), query=query, filter=_FILTER, limit=SEARCH_LIMIT))

    def delete(self, person: str, memory_id: str) -> None:
        self._store.delete(_namespace(person), memory_id)

    def disk_bytes(self) -> int:
        return database_bytes(self._place.database)

    def helpers(self) -> Sequence[int]:
        return []

    def close(self) -> None:
        self._stack.close()

    def _open(self) -> None:
        self._stack = ExitStack()
        self._store = self._stack.enter_context(
            PostgresStore.from_conn_string(
                plain(self._place.database),
                pool_config={"min_size": self._place.callers, "max_size": self._place.callers},
                index={"embed": embed, "dims": DIMENSIONS, "fields": ["text"]},
            )
        )
        # Callers do not wait for connections that the pool makes in the background.
        assert isinstance(self._store.conn, psycopg_pool.ConnectionPool)
        self._store.conn.wait()


def _namespace(person: str) -> tuple[str, ...]:
    return ("memories", person)


def _value(item: Item) -> dict[str, Any]:
    return {"text": item.text, "memory_type": item.kind, "confidence": item.confidence, "project": item.project}
