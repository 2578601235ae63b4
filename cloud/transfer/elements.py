"""Splits a JSON list of any size into its elements, without ever holding more than one of them.

The list is the whole text or the value of one of some names in an object: `[…]` or `{"results": […], …}`. Elements
come as the bytes they have in the file, for `json.loads` to judge: what is wrong inside an element is its own fault,
and the next one is read all the same. What is wrong between elements ends the reading, because nobody can say then
where the next one begins.

Brackets are counted over bytes, and strings are skipped whole, so the scan never looks at characters: in UTF-8 no
byte of a longer character is a bracket, a quote or a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Final

from cloud.kernel.errors import UnreadableFileError

_READ_BYTES: Final = 2**18
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_MARK: Final = re.compile(rb'"[^"\\]*"|["\[\]{}]')
"""A bracket, a whole string without escapes, or the quote that opens another one."""
# Nothing stands behind the repetition, so it is never tried again with less, and it ends soon, so that it needs little
# memory for that. Possessive groups, which would need neither rule, lose their place in Python before 3.11.5.
_INSIDE: Final = re.compile(rb'(?:[^"\\]+|\\.){0,1000}', re.DOTALL)
"""Some of the inside of a string; a backslash that stands alone at the end of what has been read is left."""
_SCALAR_END: Final = re.compile(rb"[,\]}\s]")
_NAME_BYTES: Final = 4096
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

Element = tuple[bytes | None, int]
"""Bytes of an element, or `None` for one that is too long; and how many they are."""


def elements(
    read: Callable[[int], bytes], *, max_bytes: int, within: Collection[str] = (), what: str = "list"
) -> Iterator[Element]:
    """The elements of the list that `read` gives, in order.

    Args:
        read: Returns at most so many bytes, and none at the end.
        max_bytes: An element that is longer is left out, and told of.
        within: Names under which the list may stand in an object. Several such objects may follow each other.
        what: What the list is called in a message.

    Raises:
        UnreadableFileError: It is no list, ends early, or something other than a list follows.
    """
    yield from _Scan(read, max_bytes, frozenset(within), what).lists()


class _Scan:
    """The text from the present place on; what lies behind it is dropped."""

    def __init__(self, read: Callable[[int], bytes], max_bytes: int, within: frozenset[str], what: str) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._within = within
        self._what = what
        self._text = b""
        self._at = 0
        self._number = 0
        self._ended = False

    def lists(self) -> Iterator[Element]:
        self._more()
        if self._text.startswith(_BYTE_ORDER_MARK):
            self._at = len(_BYTE_ORDER_MARK)
        first = self._next()
        while first is not None:
            if first == b"[":
                yield from self._list()
            elif first == b"{" and self._within:
                yield from self._object()
            else:
                raise self._broken("is not a JSON list" + (" or an object with one" if self._within else ""))
            first = self._next()
            if first is not None and not self._within:
                raise self._broken("goes on behind its end")

    def _list(self) -> Iterator[Element]:
        self._at += 1
        if self._required("is not ended by ]") == b"]":
            self._at += 1
            return
        while True:
            self._required("is not ended by ]")
            self._number += 1
            yield self._value(keep=self._max_bytes)
            after = self._required("is not ended by ]")
            self._at += 1
            if after == b"]":
                return
            if after != b",":
                raise self._broken("lacks a comma")

    def _object(self) -> Iterator[Element]:
        self._at += 1
        found = False
        after = self._required("is not ended by }")
        while after != b"}":
            name, _ = self._value(keep=_NAME_BYTES)
            if self._required("is not ended by }") != b":":
                raise self._broken("lacks a colon")
            self._at += 1
            first = self._required("is not ended by }")
            if first == b"[" and name is not None and name[1:-1].decode("utf-8", "replace") in self._within:
                found = True
                yield from self._list()
            else:
                self._value(keep=0)
            after = self._required("is not ended by }")
            if after == b",":
                self._at += 1
                self._required("is not ended by }")
            elif after != b"}":
                raise self._broken("lacks a comma")
        self._at += 1
        if not found:
            raise self._broken(f"holds no list under {' or '.join(sorted(self._within))}")

    def _value(self, *, keep: int) -> Element:
        """The value that begins here; its bytes only if they are not more than `keep`."""
        first = self._text[self._at : self._at + 1]
        if first not in (b"{", b"[", b'"'):
            return self._scalar(keep)
        kept, length, depth, inside = bytearray(), 0, 0, first == b'"'
        start, self._at = self._at, self._at + inside
        while True:
            depth, inside, whole = self._advanced(depth, inside)
            length += self._at - start
            if length <= keep:
                kept += self._text[start : self._at]
            if whole:
                return (bytes(kept) if length <= keep else None), length
            self._more(required=True)
            start = self._at

    def _advanced(self, depth: int, inside: bool) -> tuple[int, bool, bool]:
        """Go on as far as the text has been read, or to the end of the value.

        Args:
            depth: Brackets that are open.
            inside: Whether a string is open.

        Returns:
            The same two there, and whether the value has ended.
        """
        while True:
            if inside:
                while (found := _INSIDE.match(self._text, self._at)) and found.end() > self._at:
                    self._at = found.end()
                if self._text[self._at : self._at + 1] != b'"':
                    return depth, True, False
                self._at += 1
                inside = False
                if not depth:
                    return 0, False, True
            mark = _MARK.search(self._text, self._at)
            if mark is None:
                self._at = len(self._text)
                return depth, False, False
            self._at = mark.end()
            match mark[0]:
                case b"{" | b"[":
                    depth += 1
                case b"}" | b"]":
                    depth -= 1
                    if not depth:
                        return 0, False, True
                case text:
                    inside = len(text) == 1

    def _scalar(self, keep: int) -> Element:
        while (found := _SCALAR_END.search(self._text, self._at)) is None:
            if len(self._text) - self._at > _NAME_BYTES:
                raise self._broken("holds what is no JSON")
            self._more(required=True)
        data, self._at = self._text[self._at : found.start()], found.start()
        if not data:
            raise self._broken("lacks a value")
        return (data if len(data) <= keep else None), len(data)

    def _next(self) -> bytes | None:
        """The next byte that is not blank, or `None` at the end; it is not passed."""
        while True:
            found = _SPACE.match(self._text, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._text):
                return self._text[self._at : self._at + 1]
            if not self._more():
                return None

    def _required(self, fault: str) -> bytes:
        found = self._next()
        if found is None:
            raise self._broken(fault)
        return found

    def _more(self, *, required: bool = False) -> bool:
        data = b"" if self._ended else self._read(_READ_BYTES)
        self._ended = not data
        if required and not data:
            raise self._broken("ends early")
        self._text = self._text[self._at :] + data
        self._at = 0
        return bool(data)

    def _broken(self, fault: str) -> UnreadableFileError:
        place = f" at element {self._number}" if self._number else ""
        return UnreadableFileError("structure", f"the {self._what} {fault}{place}")
