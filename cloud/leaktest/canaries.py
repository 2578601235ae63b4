"""Canaries: words that nobody can guess and ids that nobody else may see, and where they turn up.

A word counts as seen from ten of its letters on, in any case and compatibility form, in base64 and in hex: what leaks
is rarely the whole. An id counts as a whole; time-ordered ids have their beginnings in common.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Final

_WORD_LETTERS: Final = 24
_FRAGMENT_LETTERS: Final = 10
_UUID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Owner:
    """The person of a tenant that a canary belongs to."""

    tenant_id: str
    user_id: str


@dataclass(frozen=True, slots=True)
class Canary:
    """Something that only its owner's own readers may see.

    Attributes:
        owner: Whose it is.
        place: What it is, or the field it was planted in, such as `metadata`.
        value: The word or id.
        memory_id: The memory it was planted in, if any.
    """

    owner: Owner
    place: str
    value: str
    memory_id: str | None = None


def new_word() -> str:
    """A word of 24 random letters; it never comes from a seed, so no earlier run knows it."""
    return "".join(secrets.choice(ascii_lowercase) for _ in range(_WORD_LETTERS))


def derived_word(*of: str) -> str:
    """A word of 24 letters that whoever knows `of` can make again, and nobody else can guess."""
    number = int.from_bytes(hashlib.sha256("\0".join(of).encode()).digest(), "big")
    letters = []
    for _ in range(_WORD_LETTERS):
        number, at = divmod(number, len(ascii_lowercase))
        letters.append(ascii_lowercase[at])
    return "".join(letters)


class Canaries:
    """The canaries of one run. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fragments: dict[str, Canary] = {}
        self._ids: dict[str, Canary] = {}
        self._gone_memories: set[str] = set()
        self._gone_owners: set[Owner] = set()

    def plant(self, canary: Canary) -> None:
        """Look out for a word from now on."""
        with self._lock:
            for trace in _traces(canary.value):
                for at in range(len(trace) - _FRAGMENT_LETTERS + 1):
                    self._fragments[trace[at : at + _FRAGMENT_LETTERS]] = canary

    def plant_id(self, canary: Canary) -> None:
        """Look out for an id, a UUID, from now on."""
        with self._lock:
            self._ids[_bare(canary.value)] = canary

    def owner_of(self, memory_id: str) -> Owner | None:
        """Whose memory this is, or `None` if no memory of this run has the id."""
        with self._lock:
            found = self._ids.get(_bare(memory_id))
        return found.owner if found else None

    def bury_memory(self, memory_id: str) -> None:
        """From now on nobody at all may see this memory."""
        self._gone_memories.add(memory_id)

    def bury_person(self, owner: Owner) -> None:
        """From now on nobody at all may see anything of this person."""
        self._gone_owners.add(owner)

    def is_gone(self, canary: Canary, *, but_kept: bool = False) -> bool:
        """Whether nobody may see it any more; with `but_kept`, what is deleted and not purged yet does not count."""
        return canary.owner in self._gone_owners or (not but_kept and canary.memory_id in self._gone_memories)

    def words_in(self, text: str) -> set[Canary]:
        """The words of which `text` holds at least a fragment."""
        folded = _folded(text)
        windows = {folded[at : at + _FRAGMENT_LETTERS] for at in range(len(folded) - _FRAGMENT_LETTERS + 1)}
        with self._lock:
            return {self._fragments[window] for window in windows & self._fragments.keys()}

    def ids_in(self, text: str) -> set[Canary]:
        """The ids that `text` holds."""
        found = {_bare(match) for match in _UUID.findall(_folded(text))}
        with self._lock:
            return {self._ids[one] for one in found & self._ids.keys()}


def _traces(word: str) -> Iterator[str]:
    raw = word.encode()
    yield _folded(word)
    yield raw.hex()
    for shift in range(3):
        # Without the groups at either end, which depend on the neighbours.
        yield _folded(base64.b64encode(bytes(shift) + raw).decode()[4:-4])


def _folded(text: str) -> str:
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _bare(identifier: str) -> str:
    return identifier.replace("-", "").casefold()
