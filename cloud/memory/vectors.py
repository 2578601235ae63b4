"""Sealed embeddings: computed from a sealed envelope, inside the data plane or outside, with the same result.

A sealed vector's plaintext is one format byte, 8 bytes that name the model, and one signed byte per dimension. With
256 dimensions and the seal around it, it stays below 512 bytes, which keeps it in the row.

Several models may be live at once: a table's second column is filled while its first is read. Each is known by a name,
and what is read names its model, so vectors of two models are never compared.
"""

from __future__ import annotations

import hashlib
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cloud.kernel.errors import ConfigurationError, KeyDestroyedError, ProviderUnavailableError, SealBrokenError
from cloud.keys.envelope import Envelope, decode_envelope
from cloud.keys.model import Place
from cloud.keys.ports import Keyring, Sealer
from cloud.memory.model import SealedRow
from src.memory.embedding import Embedder, quantize

_FORMAT = b"\x01"
_MODEL_BYTES = 8


def envelope_place(tenant_id: str, subject_id: str, memory_id: str) -> Place:
    """Where an envelope opens."""
    return Place(tenant_id, subject_id, memory_id, "envelope")


class Vectorizer:
    """Opens envelopes, embeds their content, seals the vectors.

    Args:
        keyring: Holds the people's keys.
        sealer: The cipher.
        embedder: The model.
    """

    def __init__(self, keyring: Keyring, sealer: Sealer, embedder: Embedder) -> None:
        self._keyring = keyring
        self._sealer = sealer
        self._embedder = embedder
        self._model = hashlib.sha256(f"{embedder.name}\0{embedder.version}".encode()).digest()[:_MODEL_BYTES]

    @property
    def embedder(self) -> Embedder:
        """The model."""
        return self._embedder

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self._embedder.dimensions

    def embed(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """One vector per text.

        Returns:
            (n, d) int8.
        """
        if not texts:
            return np.zeros((0, self.dimensions), np.int8)
        return quantize(self._embedder.embed(texts))

    def open_envelope(self, key: bytes, row: SealedRow) -> Envelope:
        """The envelope of a row.

        Raises:
            SealBrokenError: It does not open under this key and place.
        """
        place = envelope_place(row.tenant_id, row.subject_id, row.memory_id)
        return decode_envelope(self._sealer.unseal(key, row.envelope, place=place))

    def open_vector(self, key: bytes, row: SealedRow) -> NDArray[np.int8] | None:
        """The vector of a row, or `None` if it has none of this model.

        Returns:
            (d,) int8.

        Raises:
            SealBrokenError: It does not open under this key and place.
        """
        if row.embedding is None:
            return None
        place = Place(row.tenant_id, row.subject_id, row.memory_id, "embedding")
        plain = self._sealer.unseal(key, row.embedding, place=place)
        head = _FORMAT + self._model
        if not plain.startswith(head) or len(plain) != len(head) + self.dimensions:
            return None
        return np.frombuffer(plain, np.int8, offset=len(head))

    def seal_batch(
        self,
        tenant_ids: Sequence[str],
        subject_ids: Sequence[str],
        memory_ids: Sequence[str],
        envelopes: Sequence[bytes],
    ) -> list[bytes | None]:
        """Sealed vectors of sealed envelopes; `None` for a row whose key is destroyed or whose seal is broken.

        It never raises for one row's sake: an error would fail all rows of its batch.
        """
        keys: list[bytes | None] = []
        texts: list[str] = []
        for tenant_id, subject_id, memory_id, envelope in zip(
            tenant_ids, subject_ids, memory_ids, envelopes, strict=True
        ):
            key = self._key(tenant_id, subject_id)
            text = None if key is None else self._content(key, tenant_id, subject_id, memory_id, envelope)
            keys.append(None if text is None else key)
            texts.append(text or "")
        vectors = self.embed(texts)
        return [
            None if key is None else self._sealed(key, Place(tenant_id, subject_id, memory_id, "embedding"), vector)
            for key, tenant_id, subject_id, memory_id, vector in zip(
                keys, tenant_ids, subject_ids, memory_ids, vectors, strict=True
            )
        ]

    def _key(self, tenant_id: str, subject_id: str) -> bytes | None:
        try:
            found = self._keyring.subject_key(tenant_id, subject_id)
        except (KeyDestroyedError, SealBrokenError, ProviderUnavailableError):
            return None
        return found.key if found else None

    def _content(self, key: bytes, tenant_id: str, subject_id: str, memory_id: str, envelope: bytes) -> str | None:
        try:
            place = envelope_place(tenant_id, subject_id, memory_id)
            return decode_envelope(self._sealer.unseal(key, envelope, place=place)).content
        except SealBrokenError:
            return None

    def _sealed(self, key: bytes, place: Place, vector: NDArray[np.int8]) -> bytes:
        return self._sealer.seal(key, _FORMAT + self._model + vector.tobytes(), place=place)


class Models:
    """The embedding models that this process can compute, by the names that the control plane knows them by.

    Args:
        keyring: Holds the people's keys.
        sealer: The cipher.
        embedders: Makes each model; called when the model is first asked for.
        first: The model that new tables begin with.
    """

    def __init__(
        self, keyring: Keyring, sealer: Sealer, embedders: Mapping[str, Callable[[], Embedder]], *, first: str
    ) -> None:
        self._keyring = keyring
        self._sealer = sealer
        self._embedders = embedders
        self._made: dict[str, Vectorizer] = {}
        self._lock = threading.Lock()
        self._withheld: set[str] = set()
        self.first = first

    @property
    def names(self) -> tuple[str, ...]:
        """Models that can be asked for, sorted."""
        return tuple(sorted(self._embedders))

    def of(self, name: str) -> Vectorizer:
        """The model of this name; of the first one for the empty name.

        Raises:
            ConfigurationError: This process does not know the model.
        """
        name = name or self.first
        with self._lock:
            found = self._made.get(name)
            if found is None:
                maker = self._embedders.get(name)
                if maker is None:
                    raise ConfigurationError(
                        f"this process does not know the embedding model {name!r}; it knows: {', '.join(self.names)}. "
                        "If memories are embedded with it, give it the model (docs/embeddings.md)"
                    )
                found = self._made[name] = Vectorizer(self._keyring, self._sealer, maker())
        return found

    def column(
        self,
        model: str | None,
        tenant_ids: Sequence[str],
        subject_ids: Sequence[str],
        memory_ids: Sequence[str],
        envelopes: Sequence[str],
    ) -> list[bytes | None]:
        """Values of a computed column of `model` (`None`: the first one) from envelopes as base64 text.

        The empty model is that of a column without one: it computes nothing.

        Raises:
            ConfigurationError: This process does not know the model. That fails the whole write: rows without vectors
                would be worse than rows that come later, from a process that knows it.
        """
        if model == "" or model in self._withheld:
            return [None] * len(envelopes)
        vectorizer = self.of(model or self.first)
        return vectorizer.seal_batch(tenant_ids, subject_ids, memory_ids, [b64decode(text) for text in envelopes])

    @contextmanager
    def withheld(self, name: str) -> Iterator[None]:
        """Columns of this model compute nothing in this process meanwhile.

        For adding one to a table with rows: Pixeltable fills it under an exclusive lock, so it is made empty and filled
        in batches afterwards.
        """
        self._withheld.add(name)
        try:
            yield
        finally:
            self._withheld.discard(name)


_installed: list[Models] = []
"""The one process-global: Pixeltable calls a computed column's function without any context of ours."""


def install(models: Models) -> None:
    """Let the computed columns of this process use `models`, until they are taken away or others are installed."""
    _installed.append(models)


def uninstall(models: Models) -> None:
    """Take `models` away; those installed before, if any, are used again."""
    if models in _installed:
        _installed.remove(models)


def installed() -> Models | None:
    """What the computed columns of this process use."""
    return _installed[-1] if _installed else None
