"""Pixeltable as its documentation shows: a normal table, an embedding index, `similarity`, one insert per memory.

Not as shown: its web server on loopback, which would serve every file of this account, is not started, and its database
is one of its own on the same PostgreSQL as everybody's.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pixeltable as pxt
import sqlalchemy as sa
from pixeltable.exceptions import Error
from pixeltable.func import Batch

from cloud.storage.pixeltable_env import open_pixeltable
from src.memory.schemas import utc_now
from tests.bench.contender import LIMIT, MIN_CONFIDENCE, OPERATIONS, SEARCH_LIMIT, NothingFoundError, Place
from tests.bench.data import Item
from tests.bench.databases import database_bytes
from tests.bench.embedding import MODEL
from tests.bench.processes import directory_bytes

_TABLE = "memories"


@pxt.udf(batch_size=64)
def wordllama(texts: Batch[str]) -> Batch[pxt.Array[(256,), np.float32]]:
    """The model that everybody has."""
    return list(MODEL.embed(texts))


class PixeltableDirect:
    """A table per installation, people told apart by a column, called by threads."""

    title: ClassVar[str] = "Pixeltable directly"
    persistent: ClassVar[bool] = True
    callers: ClassVar[Literal["tasks", "threads"]] = "threads"
    operations: ClassVar[frozenset[str]] = frozenset(OPERATIONS)
    failures: ClassVar[tuple[type[Exception], ...]] = (Error, sa.exc.SQLAlchemyError, NothingFoundError)
    packages: ClassVar[tuple[str, ...]] = ("pixeltable", "pgvector", "sqlalchemy", "wordllama")

    def set_up(self, place: Place) -> None:
        self._place = place
        open_pixeltable(place.directory, sa.make_url(place.database), pool_size=min(place.callers, 20))
        self._table: Any = pxt.create_table(
            _TABLE,
            {
                "memory_id": pxt.String,
                "user_id": pxt.String,
                "content": pxt.String,
                "memory_type": pxt.String,
                "confidence": pxt.Float,
                "project": pxt.String,
                "created_at": pxt.Timestamp,
            },
        )
        self._table.add_embedding_index("content", string_embed=wordllama)

    def load(self, people: Mapping[str, Sequence[Item]]) -> None:
        for person, items in people.items():
            self._table.insert([_row(person, item) for item in items])

    def settle(self) -> None:
        """It has no background."""

    def store(self, person: str, item: Item) -> str:
        row = _row(person, item)
        self._table.insert([row])
        return str(row["memory_id"])

    def retrieve(self, person: str, query: str) -> int:
        return self._ranked(self._table.user_id == person, query, LIMIT)

    def cool(self) -> None:
        """It keeps no memories in the process; the table is looked up anew."""
        self._table = pxt.get_table(_TABLE)

    def search(self, person: str) -> int:
        t = self._table
        found = t.where(self._filter(person)).order_by(t.created_at, asc=False).limit(SEARCH_LIMIT)
        return len(found.select(*_columns(t)).collect())

    def search_text(self, person: str, query: str) -> int:
        return self._ranked(self._filter(person), query, SEARCH_LIMIT)

    def delete(self, person: str, memory_id: str) -> None:
        if self._table.delete(self._table.memory_id == memory_id).num_rows != 1:
            raise RuntimeError("nothing was deleted")

    def disk_bytes(self) -> int:
        return database_bytes(self._place.database) + directory_bytes(self._place.directory)

    def helpers(self) -> Sequence[int]:
        return []

    def close(self) -> None:
        """Its environment lasts as long as the process."""

    def _filter(self, person: str) -> Any:
        t = self._table
        return (t.user_id == person) & (t.memory_type == "fact") & (t.confidence >= MIN_CONFIDENCE)

    def _ranked(self, predicate: Any, query: str, limit: int) -> int:
        t = self._table
        similarity = t.content.similarity(string=query)
        found = t.where(predicate).order_by(similarity, asc=False).limit(limit)
        return len(found.select(*_columns(t), score=similarity).collect())


def _row(person: str, item: Item) -> dict[str, Any]:
    return {
        "memory_id": str(uuid.uuid4()),
        "user_id": person,
        "content": item.text,
        "memory_type": item.kind,
        "confidence": item.confidence,
        "project": item.project,
        "created_at": utc_now(),
    }


def _columns(t: Any) -> list[Any]:
    return [t.memory_id, t.content, t.memory_type, t.confidence, t.project, t.created_at]
