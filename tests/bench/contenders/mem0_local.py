"""mem0 without inference (`infer=False`), on Qdrant's local persistent store, its documentation's way without a server.

No model of language is asked: what is stored is what was given. Telemetry is off, and the process may reach nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

os.environ |= {"MEM0_TELEMETRY": "False", "ANONYMIZED_TELEMETRY": "False", "POSTHOG_DISABLED": "1"}

from mem0 import Memory
from mem0.embeddings.base import EmbeddingBase
from mem0.utils.factory import EmbedderFactory

from tests.bench.contender import LIMIT, MIN_CONFIDENCE, OPERATIONS, SEARCH_LIMIT, Place
from tests.bench.data import Item
from tests.bench.embedding import DIMENSIONS, MODEL
from tests.bench.processes import directory_bytes

_PROVIDER = "langchain"
"""mem0 takes the names it knows alone; this is the one meant for embedders of one's own."""


class WordLlama(EmbeddingBase):
    """The model that everybody has."""

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        """The text's vector."""
        return [float(number) for number in MODEL.embed([text])[0]]


class Mem0Local:
    """A collection for everybody, people told apart by `user_id`, called by threads.

    Its local store shares one SQLite connection among threads without a lock, which fails in many ways at more than one
    caller: those calls are counted as failed.
    """

    title: ClassVar[str] = "mem0 (local Qdrant)"
    persistent: ClassVar[bool] = True
    callers: ClassVar[Literal["tasks", "threads"]] = "threads"
    operations: ClassVar[frozenset[str]] = frozenset(OPERATIONS)
    failures: ClassVar[tuple[type[Exception], ...]] = (
        sqlite3.Error, SystemError, RuntimeError, ValueError, IndexError, KeyError, TypeError,
    )  # fmt: skip
    packages: ClassVar[tuple[str, ...]] = ("mem0ai", "qdrant-client", "wordllama")

    def set_up(self, place: Place) -> None:
        self._place = place
        EmbedderFactory.provider_to_class[_PROVIDER] = f"{WordLlama.__module__}.{WordLlama.__qualname__}"
        self._open()

    def load(self, people: Mapping[str, Sequence[Item]]) -> None:
        for person, items in people.items():
            for item in items:
                self.store(person, item)

    def settle(self) -> None:
        """It has no background."""

    def store(self, person: str, item: Item) -> str:
        added = self._memory.add(
            item.text,
            user_id=person,
            metadata={"memory_type": item.kind, "confidence": item.confidence, "project": item.project},
            infer=False,
        )
        return str(added["results"][0]["id"])

    def retrieve(self, person: str, query: str) -> int:
        found = self._memory.search(query, filters={"user_id": person}, top_k=LIMIT, threshold=0.0)
        return len(found["results"])

    def cool(self) -> None:
        """Qdrant's local store holds every vector in the process: closed and opened again."""
        self._shut()
        self._open()

    def search(self, person: str) -> int:
        """As many that pass, in no order: it lists without one."""
        return len(self._memory.get_all(filters=_filter(person), top_k=SEARCH_LIMIT)["results"])

    def search_text(self, person: str, query: str) -> int:
        found = self._memory.search(query, filters=_filter(person), top_k=SEARCH_LIMIT, threshold=0.0)
        return len(found["results"])

    def delete(self, person: str, memory_id: str) -> None:
        self._memory.delete(memory_id)

    def disk_bytes(self) -> int:
        return directory_bytes(self._place.directory)

    def helpers(self) -> Sequence[int]:
        return []

    def close(self) -> None:
        self._shut()

    def _open(self) -> None:
        directory = self._place.directory
        self._memory = Memory.from_config(
            {
                "vector_store": {
                    "provider": "qdrant",
                    "config": {"path": str(directory / "qdrant"), "embedding_model_dims": DIMENSIONS, "on_disk": True},
                },
                "embedder": {"provider": _PROVIDER, "config": {"embedding_dims": DIMENSIONS}},
                # Built with the rest and never asked.
                "llm": {"provider": "openai", "config": {"api_key": "none"}},
                "history_db_path": str(directory / "history.db"),
            }
        )

    def _shut(self) -> None:
        self._memory.vector_store.client.close()
        # The store of entities shares the client.
        self._memory.close()


def _filter(person: str) -> dict[str, Any]:
    return {"user_id": person, "memory_type": "fact", "confidence": {"gte": MIN_CONFIDENCE}}
