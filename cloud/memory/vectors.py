"""Sealed embeddings: computed from a sealed envelope, inside the data plane or outside, with the same result.

A sealed vector's plaintext is one format byte, 8 bytes that name the model, and one signed byte per dimension. With
256 dimensions and the seal around it, it stays below 512 bytes, which keeps it in the row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cloud.kernel.errors import KeyDestroyedError, ProviderUnavailableError, SealBrokenError
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


_installed: list[Vectorizer] = []
"""The one process-global: Pixeltable calls a computed column's function without any context of ours."""


def install(vectorizer: Vectorizer) -> None:
    """Let the computed column of this process use `vectorizer`, until it is taken away or another is installed."""
    _installed.append(vectorizer)


def uninstall(vectorizer: Vectorizer) -> None:
    """Take `vectorizer` away; the one installed before it, if any, is used again."""
    if vectorizer in _installed:
        _installed.remove(vectorizer)


def installed() -> Vectorizer | None:
    """What the computed column of this process uses."""
    return _installed[-1] if _installed else None
