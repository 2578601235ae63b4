"""Hostile input: what a stranger types to get at what is not theirs. Pure: the same targets give the same input."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_LOOKALIKES: Final = str.maketrans("aceiopsx", "\u0430\u0441\u0435\u0456\u043e\u0440\u0455\u0445")
_FULL_WIDTH: Final = {ord(letter): ord(letter) + 0xFEE0 for letter in "abcdefghijklmnopqrstuvwxyz0123456789-_"}
_LONG: Final = 100_000

FRAGMENTS: Final = (
    "",
    " ",
    "%",
    "_",
    "*",
    "?",
    ".*",
    "\0",
    "\u200b",
    "null",
    "None",
    "undefined",
    "[]",
    "{}",
    '{"$ne": null}',
    '{"$gt": ""}',
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; SELECT set_config('luminescent.tenant', '%', false); --",
    '" OR ""="',
    "$1",
    ":tenant",
    "%(tenant)s",
    "${tenant}",
    "{{tenant}}",
    "../",
    "../../../../",
    "..%2f..%2f",
    "/",
    "\\",
    "file:///",
    "x" * _LONG,
)
"""Texts that mean something to a database, a shell, a template or a file system."""


def names_like(name: str) -> list[str]:
    """Names that are not `name` and that careless code takes for it; its beginnings and extensions among them."""
    made = [
        name.upper(),
        name.title(),
        name.swapcase(),
        f" {name}",
        f"{name} ",
        f"{name}\n",
        f"\t{name}",
        f"{name}\0",
        f"\u200b{name}",
        f"{name[:3]}\u200d{name[3:]}",
        f"\ufeff{name}",
        name.translate(_LOOKALIKES),
        name.translate(_FULL_WIDTH),
        unicodedata.normalize("NFD", name + "\u00e9"),
        f"{name}\u0301",
        name[:-1],
        name[: len(name) // 2],
        f"{name[:-1]}%",
        f"{name[:-1]}_",
        f"{name}%",
        f"%{name}",
        f"{name}2",
        f"{name}/",
        f"../{name}",
        f"{name}/../{name}",
        f"{name}'--",
        f"{name}' OR '1'='1",
        f'{name}" OR ""="',
        f"{name},*",
        f"{name};",
        f'{{"$eq": "{name}"}}',
        f'["{name}"]',
        f"{name}{'x' * _LONG}",
    ]
    return [other for other in dict.fromkeys(made) if other != name]


def joined_names(tenant_id: str, other_tenant_id: str, user_id: str) -> Iterator[str]:
    """User ids that, written behind `tenant_id`, spell another tenant and its person: namespaces joined carelessly."""
    for separator in ("", ":", "/", ".", "-", "|", "\0"):
        joined = f"{other_tenant_id}{separator}{user_id}"
        if joined.startswith(tenant_id):
            yield joined.removeprefix(tenant_id).removeprefix(separator)
        yield joined


def ids_like(memory_id: str) -> list[str]:
    """Texts that are not `memory_id` and that careless code takes for it."""
    number = uuid.UUID(memory_id)
    made = [
        number.hex,
        f"{{{memory_id}}}",
        f"urn:uuid:{memory_id}",
        memory_id[:-1],
        f"{memory_id[:-1]}_",
        f"{memory_id[:8]}%",
        "%",
        f"{memory_id} ",
        f" {memory_id}",
        f"{memory_id}\0",
        f"{memory_id}' OR '1'='1",
        f"../{memory_id}",
        memory_id.translate(_FULL_WIDTH),
        str(uuid.UUID(int=number.int ^ 1)),
        str(uuid.UUID(int=0)),
        str(uuid.UUID(int=2**128 - 1)),
    ]
    return [*dict.fromkeys(made), memory_id.upper()]


class Expected(Enum):
    """What a filter must come to."""

    REFUSED = auto()
    NOTHING = auto()
    OWN = auto()


@dataclass(frozen=True, slots=True)
class HostileFilter:
    """A filter that reaches for what is not the caller's.

    Attributes:
        label: What it tries.
        filters: The filter.
        expected: What it must come to: the caller's own memories, none, or an error.
    """

    label: str
    filters: dict[str, object]
    expected: Expected

    def expected_of(self, *, ranks: bool) -> Expected:
        """What it must come to where a filter may rank, or may not."""
        return self.expected if ranks or "query" not in self.filters else Expected.REFUSED


def filters_for(
    *, tenant_id: str, own_tenant_id: str, user_id: str, word: str, source: str, memory_id: str
) -> list[HostileFilter]:
    """Filters that reach for a memory of `user_id` in `tenant_id`, to be tried in `own_tenant_id`."""
    everything: dict[str, object] = {"confidence": {"$gte": 0}}
    refused: dict[str, dict[str, object]] = {
        "the tenant as a field": {"tenant_id": {"$eq": tenant_id}},
        "one's own tenant as a field": {"tenant_id": own_tenant_id},
        "any tenant": {"tenant_id": {"$exists": True}},
        "a tenant among alternatives": {"$or": [{"tenant_id": tenant_id}, everything]},
        "no tenant": {"$not": {"tenant_id": own_tenant_id}},
        "the person as a field": {"user_id": user_id},
        "the id as a field": {"id": memory_id},
        "the workspace as a field": {"workspace_id": tenant_id},
        "an unknown field": {"colour": "red"},
        "an unknown operator": {"$where": "true"},
        "a pattern": {"source": {"$like": "%"}},
        "a regular expression": {"source": {"$regex": ".*"}},
        "an empty alternative": {"$or": []},
        "an empty condition": {"source": {}},
        "SQL as a field": {"source = '' OR 1=1 --": True},
        "SQL as a path": {"metadata.'||pg_sleep(0)||'.": 1},
    }
    nothing: dict[str, dict[str, object]] = {
        "another's metadata": {"metadata.canary": word},
        "another's source": {"source": source},
        "another's source among others": {"source": {"$in": [source, "%", "*", ""]}},
        "the tenant in metadata": {"metadata.tenant_id": {"$exists": True}},
        "a wildcard as a value": {"metadata.canary": "%"},
        "SQL as a value": {"source": "' OR '1'='1"},
        "another's metadata and everything": {"$and": [{"metadata.canary": word}, everything]},
        "nothing at all": {"$not": everything},
    }
    own: dict[str, dict[str, object]] = {
        "no filter": {},
        "expired ones too": {"include_invalid": True},
        "ranked by another's words": {"query": word, "include_invalid": True},
        "another's source or everything": {"$or": [{"source": source}, everything]},
        "all that is not one's own word": {"metadata.canary": {"$ne": "x"}},
    }
    return [
        HostileFilter(label, filters, expected)
        for expected, table in ((Expected.REFUSED, refused), (Expected.NOTHING, nothing), (Expected.OWN, own))
        for label, filters in table.items()
    ]
