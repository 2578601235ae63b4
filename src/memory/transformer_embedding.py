"""A sentence-transformers model from a local directory, as an `Embedder`; needs the extra `sentence-transformers`.

Nothing is ever downloaded: the model is a directory that the operator put there, and the library is told to look
nowhere else.
"""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from src.errors import ConfigurationError
from src.memory.embedding import forget_texts

DIMENSIONS_MAX: Final = 400
"""With one byte per dimension and the seal around it, a vector stays below 512 bytes, which keeps it in its row."""


class SentenceTransformersEmbedder:
    """Embeds with the sentence-transformers model in a directory, loaded by the first use.

    Its version is a digest of the directory's files by name and size and of its configuration, so vectors of an
    exchanged model are told apart from those of the one before.

    Args:
        directory: The model's directory.

    Raises:
        ConfigurationError: There is no such directory.
    """

    name = "sentence-transformers"

    def __init__(self, directory: Path) -> None:
        if not (directory / "modules.json").is_file():
            raise ConfigurationError(
                f"{directory} holds no sentence-transformers model: it has no modules.json; download the model there"
            )
        self._directory = directory
        self._loading = threading.Lock()
        self._loaded: Any = None
        self.version = _digest(directory)

    @property
    def dimensions(self) -> int:
        """Length of a vector; loads the model.

        Raises:
            ConfigurationError: The extra is not installed, or the model's vectors are too long to be kept in a row.
        """
        return int(self._model().get_sentence_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As the port says. A text is embedded on its own: padding to a longer one changes its last bits."""
        model = self._model()
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            if text:
                rows[row] = model.encode(
                    text, batch_size=1, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
                )
        return rows

    def _model(self) -> Any:
        with self._loading:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> Any:
        try:
            library = importlib.import_module("sentence_transformers")
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                "the model 'sentence-transformers' needs the extra of that name: pip install "
                "'luminescent-cloud[sentence-transformers]'"
            ) from exc
        model = library.SentenceTransformer(str(self._directory), device="cpu", local_files_only=True)
        dimensions = model.get_sentence_embedding_dimension()
        if not 0 < dimensions <= DIMENSIONS_MAX:
            raise ConfigurationError(
                f"the model in {self._directory} has {dimensions} dimensions; at most {DIMENSIONS_MAX} can be kept"
            )
        tokenizer = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
        if tokenizer is not None:
            # A tokenizer in Python keeps no texts.
            forget_texts(tokenizer)
        return model


def _digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
            if path.suffix == ".json":
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
