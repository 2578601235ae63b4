"""A sealed file opens as a whole, with its own key and in its own place, or not at all."""

from __future__ import annotations

import io
import os

import pytest

from cloud.backup import sealedfile
from cloud.backup.sealedfile import sealed, unsealed
from cloud.kernel.errors import ConfigurationError
from cloud.keys.rootkey import LocalRootKey

KEY = LocalRootKey.generate()
PLACE = "0123/control.dump"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealedfile, "PIECE_BYTES", 64)


def opened(data: bytes, key: LocalRootKey = KEY, place: str = PLACE) -> bytes:
    return b"".join(unsealed(io.BytesIO(data), key, place))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000])
def test_what_was_sealed_opens(size: int) -> None:
    content = os.urandom(size)
    data = b"".join(sealed([content[:10], b"", content[10:]], KEY, PLACE))
    assert opened(data) == content
    assert size < 8 or content not in data


def test_any_changed_or_missing_byte_is_noticed() -> None:
    data = b"".join(sealed([os.urandom(150)], KEY, PLACE))
    for at in range(len(data)):
        for other in (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data[:at], data[:at] + data[at + 1 :]):
            with pytest.raises(ConfigurationError):
                opened(other)
    with pytest.raises(ConfigurationError):
        opened(data + b"\0")


def test_another_key_or_place_does_not_open_it() -> None:
    data = b"".join(sealed([b"content"], KEY, PLACE))
    with pytest.raises(ConfigurationError, match=KEY.key_id):
        opened(data, LocalRootKey.generate())
    with pytest.raises(ConfigurationError, match="damaged"):
        opened(data, place="0123/data.dump")
