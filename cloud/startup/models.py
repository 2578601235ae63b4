"""Which embedding models this process can compute, and whether those are enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cloud.memory.vectors import Models
from cloud.settings import CloudSettings
from src.memory.embedding import Embedder, HashingEmbedder, WordLlamaEmbedder
from src.memory.transformer_embedding import SentenceTransformersEmbedder

_log = logging.getLogger(__name__)


def embedders(settings: CloudSettings) -> dict[str, Callable[[], Embedder]]:
    """The models that this process can compute, by name. Each is made when it is first asked for."""
    known: dict[str, Callable[[], Embedder]] = {
        "wordllama": WordLlamaEmbedder,
        "wordllama-128": lambda: WordLlamaEmbedder(128),
        "hashing": HashingEmbedder,
    }
    directory = settings.sentence_transformers_dir
    if directory is not None:
        known[SentenceTransformersEmbedder.name] = lambda: SentenceTransformersEmbedder(directory)
    return known


def check_models(models: Models, others: Sequence[str]) -> None:
    """This process can compute every model that is read somewhere; that the setting names another one is said.

    Raises:
        ConfigurationError: It cannot: it would write rows without vectors.
    """
    for model in (models.first, *others):
        models.of(model)
    if others:
        _log.warning(
            "new tables begin with the embedding model %s, as set; some that are there are read with: %s. Vectors of "
            "two models are never compared; luminescent-cloud embeddings status tells which, embeddings migrate "
            "changes them",
            models.first,
            ", ".join(others),
        )
