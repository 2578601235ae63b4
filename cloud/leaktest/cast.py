"""Who plays in a leak test: tenants whose names are easily mistaken for each other, their people, what they remember.

The people of a tenant are named after the tenant's own random name, so that nobody can guess them.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from cloud.kernel.context import request_context
from cloud.kernel.scope import Role
from cloud.leaktest.canaries import Canaries, Canary, Owner, derived_word, new_word
from src.memory.schemas import Memory, MemoryType

PREFIX: Final = "leaktest-"
_ENDINGS: Final = ("a", "a2", "a-2", "a_2", "a22", "b", "b2", "b-2", "b_2", "b22")
"""Each is a beginning of the next or matches it as a pattern: `_` stands for any one character there."""
MOST_TENANTS: Final = len(_ENDINGS)
MOST_PEOPLE: Final = 20
_TOPICS: Final = ("harbour gate", "cold store", "night ferry", "spare forklift")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    Attributes:
        tenant_id: The tenant that the host application names, if it does.
        roles: The roles that it names.
        user_id: The person that it names.
        api_key: An API key to authenticate with.
    """

    tenant_id: str | None = None
    roles: frozenset[str] = frozenset()
    user_id: str | None = None
    api_key: str | None = None

    @contextmanager
    def calling(self, request_id: str) -> Iterator[None]:
        """Everything inside runs as this caller, and is recorded under `request_id`."""
        authorization = f"Bearer {self.api_key}" if self.api_key is not None else None
        with request_context(
            tenant_id=self.tenant_id,
            user_id=self.user_id,
            roles=self.roles,
            request_id=request_id,
            authorization=authorization,
        ):
            yield


@dataclass(slots=True)
class Person:
    """A person of one tenant, and what is kept of them.

    Attributes:
        owner: Their tenant and name.
        memories: Their memories by id, with the word in each one's content.
        sources: The word in each memory's source.
        subject_id: Their subject id, once it is known.
        deleted: Ids of memories that were deleted.
        erased: Whether the person was erased.
    """

    owner: Owner
    memories: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    subject_id: str | None = None
    deleted: list[str] = field(default_factory=list)
    erased: bool = False


@dataclass(slots=True)
class Company:
    """A tenant of the test.

    Attributes:
        tenant_id: Its name.
        people: Its people: the one whom every tenant has, then its own.
        keys: API keys by role; the member's is the first person's.
    """

    tenant_id: str
    people: list[Person]
    keys: dict[Role, str] = field(default_factory=dict)

    def caller(self, role: Role, *, user_id: str | None = None) -> Caller:
        """A caller whom the host application names."""
        return Caller(self.tenant_id, frozenset({role.value}), user_id)

    def holder(self, role: Role) -> Caller:
        """A caller who has an API key and is named by nobody."""
        return Caller(api_key=self.keys[role])


def new_companies(tenants: int, people: int) -> list[Company]:
    """Tenants that do not exist yet, with random names."""
    family = f"{PREFIX}{secrets.token_hex(8)}"
    return [
        Company(name, [Person(Owner(name, user_id)) for user_id in user_ids_of(name, people)])
        for name in (f"{family}-{ending}" for ending in _ENDINGS[:tenants])
    ]


def user_ids_of(tenant_id: str, people: int) -> list[str]:
    """The people of a tenant: the first is called the same in all tenants of a run, and each next of a tenant's own
    begins like the one before."""
    family = tenant_id.removeprefix(PREFIX).partition("-")[0]
    own = derived_word("own", tenant_id)
    return [derived_word("common", family), *(own + "2" * number for number in range(people - 1))]


def is_of_a_leak_test(tenant_id: str) -> bool:
    """Whether a tenant was made by a leak test."""
    return tenant_id.startswith(PREFIX)


def plant_names(canaries: Canaries, company: Company) -> None:
    """Look out for the names of a tenant's own people; the first person's is no secret of one tenant."""
    for person in company.people[1:2]:
        canaries.plant(Canary(person.owner, "user id", person.owner.user_id))


@dataclass(frozen=True, slots=True)
class Draft:
    """A memory with a canary in every field that takes text, not stored yet."""

    memory: Memory
    words: dict[str, str]

    def plant(self, canaries: Canaries, person: Person, memory_id: str | None = None) -> None:
        """Look out for its words: before it is stored, as others may find it sooner than its writer knows its id."""
        for place, word in self.words.items():
            canaries.plant(Canary(person.owner, place, word, memory_id))

    def keep(self, canaries: Canaries, person: Person, memory_id: str) -> None:
        """Take down that it was stored."""
        self.plant(canaries, person, memory_id)
        canaries.plant_id(Canary(person.owner, "memory id", memory_id, memory_id))
        person.memories[memory_id] = self.words["content"]
        person.sources[memory_id] = self.memory.source


def new_draft(person: Person, rng: random.Random) -> Draft:
    """A memory of a person that speaks of what everybody's memories speak of, so that every query fits it."""
    words = {place: new_word() for place in ("content", "raw source", "source", "metadata", "provenance")}
    topic = rng.choice(_TOPICS)
    memory = Memory(
        user_id=person.owner.user_id,
        content=f"The {topic} opens at six; the code word is {words['content']}.",
        memory_type=rng.choice(list(MemoryType)),
        confidence=rng.uniform(0.5, 1.0),
        source=f"ledger {words['source']}",
        raw_source=f"They said: {words['raw source']}",
        metadata={"canary": words["metadata"], "n": rng.randrange(1_000), "session": topic},
        provenance={"document": words["provenance"]},
    )
    return Draft(memory, words)


def question(rng: random.Random, word: str | None = None) -> str:
    """A question that every memory of the test fits, and best the one that holds `word`."""
    return f"When does the {rng.choice(_TOPICS)} open? {word or ''}".strip()
