"""A model of one's own is a directory, found without the network; what cannot be used says what to do."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from src.errors import ConfigurationError
from src.memory.transformer_embedding import SentenceTransformersEmbedder


def model(directory: Path, *, weights: bytes = b"weights") -> Path:
    directory.mkdir()
    (directory / "modules.json").write_text(json.dumps([]))
    (directory / "model.safetensors").write_bytes(weights)
    return directory


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"modules\.json"):
        SentenceTransformersEmbedder(tmp_path)


def test_an_exchanged_model_has_another_version(tmp_path: Path) -> None:
    first = SentenceTransformersEmbedder(model(tmp_path / "a"))
    same = SentenceTransformersEmbedder(model(tmp_path / "b"))
    other = SentenceTransformersEmbedder(model(tmp_path / "c", weights=b"other weights"))
    assert first.version == same.version != other.version


@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is not None, reason="the extra is installed")
def test_without_the_extra_its_name_is_told(tmp_path: Path) -> None:
    embedder = SentenceTransformersEmbedder(model(tmp_path / "a"))
    with pytest.raises(ConfigurationError, match=r"luminescent-cloud\[sentence-transformers\]"):
        embedder.embed(["text"])
