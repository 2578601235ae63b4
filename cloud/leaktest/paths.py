"""Every way of reading, in one table, and everything else that an installation offers, with why it is none.

Whoever adds a method to a service adds it here. A method that stands in neither table makes the leak test fail: what
nobody classified, nobody attacked. A path's arguments are filled in by the names of its parameters.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Final

from cloud.kernel.ids import SYSTEM_LOG
from cloud.kernel.scope import Role
from cloud.leaktest.ports import Served
from src.memory.schemas import Memory, MemoryType

_LIMIT: Final = 100
_INSTEAD: Final = "The spare forklift is at the night ferry."
_FILE: Final = "export.jsonl"


class Asked(Enum):
    """What a call of a path names."""

    PERSON = auto()
    MEMORY = auto()
    TENANT = auto()
    OWN_TENANT = auto()
    """Nothing: it is about everybody of the caller's own tenant."""
    INSTALLATION = auto()
    """Something of the operator's."""


class Shows(Enum):
    """What an answer of a path holds, when all is well."""

    CONTENT = auto()
    """Memories of the one person, words and all."""
    EVERYTHING = auto()
    """Memories of everybody of the caller's tenant."""
    RECORDS = auto()
    """Ids and codes of the tenant, and no word."""
    NUMBERS = auto()
    """Neither a word nor a memory's id."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a call may be given; a path takes what its method has parameters for.

    Attributes:
        tenant_id: A tenant.
        user_id: A person.
        memory_id: A memory.
        query: What is asked.
        filters: A filter, where the path does not bring its own.
        directory: Where a path that writes files writes them: one that does not exist.
        changes: What a path that changes a memory makes of it.
        memory: What a path that stores a memory stores.
        cursor: Where a listing goes on.
        limit: How many at most.
    """

    tenant_id: str
    user_id: str = ""
    memory_id: str = ""
    query: str = ""
    filters: Mapping[str, object] | None = None
    directory: Path | None = None
    changes: Mapping[str, object] = field(default_factory=lambda: {"content": _INSTEAD})
    memory: Memory | None = None
    cursor: object = None
    limit: int = _LIMIT


Filter = Callable[[Arguments], dict[str, object]]


@dataclass(frozen=True, slots=True)
class ReadPath:
    """One way of reading.

    Attributes:
        surface: The attribute of the installation that has it.
        method: Its name there.
        asked: What a call of it names.
        shows: What its answers hold.
        role: The least that may use it.
        variant: What sets it apart from other uses of the method.
        filters: Makes its filter.
        fixed: Arguments that are always these, by parameter.
        ranks: Whether its filter may have a `query`.
        changes: Whether it changes what it finds, so that it is not tried on what one may see.
        tells_all: Whether it tells of everything that is kept, deleted memories that are not purged yet included.
    """

    surface: str
    method: str
    asked: Asked
    shows: Shows
    role: Role = Role.SERVICE
    variant: str = ""
    filters: Filter | None = field(default=None, compare=False)
    fixed: Mapping[str, object] = field(default_factory=dict, compare=False)
    ranks: bool = False
    changes: bool = False
    tells_all: bool = False

    @property
    def name(self) -> str:
        """How the report names it."""
        return f"{self.surface}.{self.method}" + (f" ({self.variant})" if self.variant else "")

    def exists(self, served: Served) -> bool:
        """Whether this installation has it."""
        return hasattr(getattr(served, self.surface, None), self.method)

    def takes(self, served: Served, parameter: str) -> bool:
        """Whether its answers depend on an argument of this name: a parameter, or a part of its filter."""
        if self.filters is not None:
            return parameter in self.filters(Arguments(""))
        return parameter in self._parameters(served)

    def is_filtered(self, served: Served) -> bool:
        """Whether it takes a filter."""
        return "filters" in self._parameters(served)

    def writes_files(self, served: Served) -> bool:
        """Whether it writes what it shows to files."""
        return not self._parameters(served).isdisjoint({"directory", "path"})

    def _parameters(self, served: Served) -> frozenset[str]:
        return frozenset(inspect.signature(getattr(getattr(served, self.surface), self.method)).parameters)

    async def call(self, served: Served, arguments: Arguments) -> object:
        """Call it as whoever is calling.

        Raises:
            TypeError: The method demands an argument that has no place in `Arguments`.
        """
        method: Callable[..., object] = getattr(getattr(served, self.surface), self.method)
        given = self._given(method, arguments)
        if inspect.iscoroutinefunction(method):
            answer: object = await method(**given)
            return answer
        return await asyncio.to_thread(method, **given)

    def _given(self, method: Callable[..., object], arguments: Arguments) -> dict[str, object]:
        filters = arguments.filters
        if filters is None:
            filters = self.filters(arguments) if self.filters is not None else None
        offered: dict[str, object] = {
            "tenant_id": arguments.tenant_id,
            "tenant_ids": [arguments.tenant_id],
            "workspace_id": arguments.tenant_id,
            "user_id": arguments.user_id,
            "memory_id": arguments.memory_id,
            "query": arguments.query,
            "limit": arguments.limit,
            "changes": arguments.changes,
            "context": {},
            **({"filters": filters} if filters is not None else {}),
            **({"directory": arguments.directory} if arguments.directory is not None else {}),
            **({"cursor": arguments.cursor} if arguments.cursor is not None else {}),
            **self.fixed,
        }
        parameters = inspect.signature(method).parameters
        if "memory" in parameters:
            offered["memory"] = arguments.memory or _memory_of(arguments.user_id)
        if "path" in parameters and arguments.directory is not None:
            arguments.directory.mkdir(parents=True, exist_ok=True)
            offered["path"] = arguments.directory / _FILE
        return {name: offered[name] for name in parameters if name in offered}


def _memory_of(user_id: str) -> Memory:
    return Memory(user_id=user_id, content=_INSTEAD, memory_type=MemoryType.FACT, source="leak test")


def _person(method: str, shows: Shows = Shows.CONTENT, *, variant: str = "", filters: Filter | None = None) -> ReadPath:
    ranks = method == "search"
    return ReadPath("memory", method, Asked.PERSON, shows, variant=variant, filters=filters, ranks=ranks)


def _memory(method: str, shows: Shows, *, changes: bool = False) -> ReadPath:
    return ReadPath("memory", method, Asked.MEMORY, shows, changes=changes)


def _operator(surface: str, method: str, variant: str = "", **fixed: object) -> ReadPath:
    return ReadPath(surface, method, Asked.INSTALLATION, Shows.NUMBERS, Role.OPERATOR, variant, fixed=fixed)


def _usage(method: str) -> ReadPath:
    return ReadPath("usage", method, Asked.TENANT, Shows.NUMBERS, Role.TENANT_ADMIN)


PATHS: Final = (
    _person("retrieve"),
    _person("search", variant="plain", filters=lambda _: {}),
    _person("search", variant="filtered", filters=lambda _: {"$or": [{"metadata.n": {"$gte": 0}}, {"source": "x"}]}),
    _person("search", variant="ranked", filters=lambda a: {"query": a.query}),
    _person("search", variant="include_invalid", filters=lambda _: {"include_invalid": True}),
    _person("list"),
    _person("count", Shows.NUMBERS),
    _memory("get_by_id", Shows.CONTENT),
    _memory("history", Shows.RECORDS),
    _memory("delete", Shows.NUMBERS, changes=True),
    _memory("undelete", Shows.NUMBERS, changes=True),
    _memory("update", Shows.NUMBERS, changes=True),
    _memory("supersede", Shows.NUMBERS, changes=True),
    ReadPath("transfer", "export", Asked.PERSON, Shows.CONTENT, variant="person"),
    ReadPath(
        "transfer",
        "export",
        Asked.OWN_TENANT,
        Shows.EVERYTHING,
        Role.TENANT_ADMIN,
        "everybody",
        fixed={"user_id": None},
    ),
    ReadPath("gdpr", "export_user_data", Asked.PERSON, Shows.CONTENT, Role.TENANT_ADMIN, tells_all=True),
    ReadPath("gdpr", "delete_user_data", Asked.PERSON, Shows.NUMBERS, Role.TENANT_ADMIN, "preview"),
    _usage("get_usage_summary"),
    _usage("daily"),
    _usage("monthly"),
    ReadPath("api_keys", "review", Asked.TENANT, Shows.NUMBERS, Role.TENANT_ADMIN),
    ReadPath("audit", "events", Asked.TENANT, Shows.RECORDS, Role.AUDITOR),
    ReadPath("audit", "export", Asked.TENANT, Shows.RECORDS, Role.AUDITOR),
    _operator("tenants", "list"),
    _operator("api_keys", "list"),
    _operator("api_keys", "review", "all", tenant_id=None),
    _operator("usage", "reconcile"),
    _operator("closing", "close", "preview"),
    _operator("embeddings", "status"),
    _operator("embeddings", "chosen"),
    _operator("keyring", "status"),
    _operator("keyring", "backups"),
    _operator("audit", "events", "system", tenant_id=SYSTEM_LOG),
    _operator("audit", "export", "system", tenant_id=SYSTEM_LOG),
)
"""The ways of reading. One that the installation does not have is reported: `stale`."""

_WRITES: Final = "writes; what it wrote is read again by the paths above"
_ADMINISTERS: Final = "changes what the operator alone may change, and shows nothing"
_CALLER: Final = "says who is calling; tried with every credential"
_PART: Final = "a part of another operation, which has no caller of its own"

NO_READS: Final[Mapping[str, Mapping[str, str]]] = {
    "memory": {
        "store": _WRITES,
        "store_many": _WRITES,
        "close": "ends the provider",
    },
    "gdpr": {
        **dict.fromkeys(("resume", "upkeep"), "finishes what was decided before"),
        **dict.fromkeys(
            (
                "request_erasure",
                "requests",
                "show",
                "verify_identity",
                "preview_request",
                "confirm",
                "cancel",
                "reject",
                "extend",
                "resume_request",
                "hold",
                "release",
                "holds",
                "certificate",
            ),
            "about requests and holds by ids of their own, which hold no content; tests/isolation tries them",
        ),
    },
    "usage": {
        "check_quota": _PART,
        "observed": _PART,
        "denied": _PART,
        "exceeded": _PART,
        "track": "counts, and shows nothing",
        "use_admission": _PART,
        "use_books": _PART,
        **dict.fromkeys(("reserve", "commit", "release"), "holds units, and shows numbers of its own hold"),
    },
    "audit": {
        "draft": _PART,
        "record": _PART,
        "log": _WRITES,
        "log_event": _WRITES,
        "log_security_event": _WRITES,
        "log_gdpr_deletion": _WRITES,
        "log_gdpr_export": _WRITES,
        "use_admission": _PART,
        "use_evidence": _PART,
        "export_evidence": "what `export` does, and says how much it was",
        **dict.fromkeys(("verifier_key", "checkpoint"), "tells a public key, or how many events a log has"),
        **dict.fromkeys(("accept", "rotate_key"), _ADMINISTERS),
    },
    "audit_archives": {"archive": _ADMINISTERS},
    "tenants": dict.fromkeys(("create", "suspend", "resume", "change", "move"), _ADMINISTERS),
    "api_keys": dict.fromkeys(("create", "revoke", "rotate"), _ADMINISTERS),
    "tokens": dict.fromkeys(("check", "revoke"), _CALLER),
    "embeddings": {
        **dict.fromkeys(("finish", "migrate", "rollback"), _ADMINISTERS),
        "embedder": "a model by its name, which holds nothing of a tenant",
    },
    "keyring": dict.fromkeys(
        (
            "accept",
            "backup",
            "destroy_root_key",
            "note",
            "now",
            "reconcile",
            "restore",
            "resume",
            "rotate_root",
            "rotate_tenant",
        ),
        "keeps keys, for operators alone",
    ),
    "backups": dict.fromkeys(
        ("create", "expire", "expire_due", "level", "list", "now", "rebuild_ledger"),
        "keeps sealed copies of everybody's, for operators alone",
    ),
    "memory_purge": {"purge": _ADMINISTERS},
    "transfer": {"import_file": _WRITES},
    "closing": {
        **dict.fromkeys(("resume", "again"), "finishes what was decided before"),
        "certificate": "numbers about a tenant that is gone, for operators alone",
    },
    "scan": {
        "take": "fingerprints for whoever may erase the person, by the door that `delete_user_data` has",
        "search": "says where bytes of a file are found that its holder has, for operators alone",
    },
    "tenant_provider": dict.fromkeys(
        ("get_tenant_id", "get_tenant_filter", "validate_tenant_access", "identify"), _CALLER
    ),
    "pixeltable_config": dict.fromkeys(("open", "opener", "close"), "opens and closes the installation itself"),
    "leak_test": {"run": "this"},
}
"""What else there is, by the attribute that has it, and why it is no way of reading."""

_OWN_MODULES: Final = "cloud."


def unclassified(served: Served) -> Iterator[str]:
    """The public methods of the installation's services that stand in neither table, by name."""
    for surface, service in sorted(vars(served).items()):
        ours = any(kind.__module__.startswith(_OWN_MODULES) for kind in type(service).__mro__)
        if surface.startswith("_") or not ours:
            continue
        known = {path.method for path in PATHS if path.surface == surface} | NO_READS.get(surface, {}).keys()
        for name, _ in inspect.getmembers(type(service), inspect.isroutine):
            if not name.startswith("_") and name not in known:
                yield f"{surface}.{name}"


def stale(served: Served) -> Iterator[str]:
    """What stands in the tables and the installation has not, by name: nobody attacks it, and it looks as if."""
    for path in PATHS:
        if not path.exists(served):
            yield path.name
    for surface, methods in NO_READS.items():
        for method in methods:
            if not hasattr(getattr(served, surface, None), method):
                yield f"{surface}.{method}"


def paths_of(served: Served) -> list[ReadPath]:
    """The ways of reading that this installation has."""
    return [path for path in PATHS if path.exists(served)]
