"""A list of any size is split as `json` would split it, however its bytes arrive, and whatever is inside an element."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kernel.errors import UnreadableFileError
from cloud.transfer import elements as module
from cloud.transfer.elements import elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
LAYOUTS = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 1, "\t"])})


def split(data: bytes, step: int = 7, max_bytes: int = 1_000_000, **arguments: Any) -> list[bytes | None]:
    file = io.BytesIO(data)
    return [one for one, _ in elements(lambda n: file.read(min(n, step)), max_bytes=max_bytes, **arguments)]


@given(st.lists(VALUES, max_size=8), LAYOUTS, st.integers(1, 40))
def test_a_list_is_split_into_its_elements(values: list[Any], layout: dict[str, Any], step: int) -> None:
    data = json.dumps(values, **layout).encode("utf-8", "surrogatepass")
    found = split(data, step)
    assert [json.loads((one or b"").decode("utf-8", "surrogatepass")) for one in found] == values


@given(st.lists(VALUES, max_size=4), st.dictionaries(st.text(max_size=8), VALUES, max_size=3), st.integers(1, 40))
def test_a_list_within_an_object_is_found_under_its_name(values: list[Any], others: dict[str, Any], step: int) -> None:
    document = {"count": 3, **others, "results": values, "next": None}
    data = json.dumps(document).encode()
    found = split(data + b"\n" + data, step, within=("results",))
    assert [json.loads(one or b"") for one in found] == values * 2


@given(st.lists(VALUES, min_size=1, max_size=4), st.integers(1, 20), st.integers(0, 60))
def test_an_element_that_is_too_long_is_told_of_and_the_next_one_read(values: list[Any], step: int, most: int) -> None:
    texts = [json.dumps(value).encode() for value in values]
    found = split(b"[" + b" , ".join(texts) + b"]", step, max_bytes=most)
    assert found == [text if len(text) <= most else None for text in texts]


@given(st.binary(max_size=60), st.integers(1, 10))
def test_no_bytes_do_anything_but_split_or_fail_as_declared(data: bytes, step: int) -> None:
    for text in (data, b"[" + data, b"[" + data + b"]", b'{"results":[' + data + b"]}"):
        # Any other error fails the test.
        with contextlib.suppress(UnreadableFileError):
            split(text, step, within=("results",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[", "is not ended by ]"),
        (b"[1", "ends early at element 1"),
        (b"[1,", "is not ended by ] at element 1"),
        (b"[,]", "lacks a value at element 1"),
        (b"[1,]", "lacks a value at element 2"),
        (b"[1 2]", "lacks a comma at element 1"),
        (b'["abc', "ends early at element 1"),
        (b'[{"a": 1}', "is not ended by ] at element 1"),
        (b"[1] x", "goes on behind its end at element 1"),
        (b"{}", "is not a JSON list"),
        (b"[" + b"x" * 5_000, "holds what is no JSON at element 1"),
    ],
)
def test_what_is_wrong_between_elements_says_where(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        split(data)
    assert str(caught.value) == f"the list {message}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "holds no list under results"),
        (b'{"results": 5}', "holds no list under results"),
        (b'{"results": [1]', "is not ended by } at element 1"),
        (b'{"results" [1]}', "lacks a colon"),
        (b'{"a": 1 "results": []}', "lacks a comma"),
        (b'"results"', "is not a JSON list or an object with one"),
    ],
)
def test_what_is_wrong_around_the_list_says_so(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        split(data, within=("results",))
    assert str(caught.value) == f"the list {message}"


def test_what_is_wrong_inside_an_element_is_left_to_its_reader() -> None:
    texts = [b'{"a" 1}', b'{"b": \xff}', b"[1, ]", b'{"c": NaN,}', b"tru"]
    assert split(b"[" + b", ".join(texts) + b"]") == texts


def test_an_element_of_any_length_takes_no_memory_beyond_what_is_kept() -> None:
    escapes = rb"\n" * (module._READ_BYTES // 2)
    pieces = iter([b'[{"a": "', *[escapes] * 50, b'"}]'])
    scan: Any = None
    largest = 0

    def read(_: int) -> bytes:
        nonlocal largest
        largest = max(largest, len(scan._text))
        return next(pieces, b"")

    scan = module._Scan(read, 1_000, frozenset(), "list")
    assert list(scan.lists()) == [(None, 50 * module._READ_BYTES + len('{"a": ""}'))]
    assert largest <= module._READ_BYTES + 1
