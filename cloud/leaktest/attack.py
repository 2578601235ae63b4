"""One attempt at a time: calls a path as somebody, and judges what came back.

Judgement
1. An error shows nothing of anybody.
2. Content shows the words and ids of the one person asked for, in the caller's own tenant, or of everybody there where
   everybody is asked for; records show ids of the caller's tenant; numbers show neither.
3. What is gone is shown to nobody.
4. A memory that this test did not store is somebody's: it is counted and never shown.
5. A foreign thing and an absent one look the same: same answer, same error, same shape, same audit event.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cloud.kernel.errors import LuminescentError, ProviderUnavailableError
from cloud.kernel.ids import new_request_id
from cloud.leaktest.canaries import Canaries, Canary, Owner
from cloud.leaktest.cast import Caller, Company, Person
from cloud.leaktest.exposure import Answer
from cloud.leaktest.paths import Arguments, Asked, ReadPath, Shows, paths_of
from cloud.leaktest.ports import Served
from cloud.leaktest.report import Check, Findings


@dataclass(frozen=True, slots=True)
class Alike:
    """Two attempts whose audit events must look the same.

    Attributes:
        path: The path.
        tenant_id: The log that both are in.
        foreign: Request id of the attempt at what is another's.
        absent: Request id of the attempt at what is not there.
    """

    path: str
    tenant_id: str
    foreign: str
    absent: str


@dataclass(slots=True)
class Attack:
    """A run of the leak test: its cast, its canaries, its findings.

    Attributes:
        served: The installation.
        companies: The tenants.
        canaries: What must not be seen.
        findings: What was seen.
        rng: Decides the order; its seed reproduces it.
        directory: Where exports go.
        alike: Attempts whose audit events are to be compared.
    """

    served: Served
    companies: list[Company]
    canaries: Canaries
    findings: Findings
    rng: random.Random
    directory: Path
    alike: list[Alike] = field(default_factory=list)

    def paths(self, *asked: Asked, surface: str | None = None) -> list[ReadPath]:
        """The ways of reading whose calls name one of these."""
        return [path for path in paths_of(self.served) if path.asked in asked and surface in (None, path.surface)]

    def quick_paths(self, *asked: Asked) -> list[ReadPath]:
        """The same without those that look everywhere: they take a hundred times as long."""
        return [path for path in self.paths(*asked) if path.surface != "gdpr"]

    def shuffled(self, *asked: Asked) -> list[ReadPath]:
        """The same in a random order."""
        paths = self.paths(*asked)
        return self.rng.sample(paths, len(paths))

    def people(self) -> list[tuple[Company, Person]]:
        """Everybody, with their tenant."""
        return [(company, person) for company in self.companies for person in company.people]

    def strangers_to(self, company: Company) -> list[Person]:
        """Everybody of the other tenants."""
        return [person for other in self.companies if other is not company for person in other.people]

    def caller(self, company: Company, path: ReadPath) -> Caller:
        """Somebody of a tenant who may use a path: by an API key, or named by the host application."""
        return company.holder(path.role) if self.rng.random() < 0.5 else company.caller(path.role)

    def fresh_directory(self) -> Path:
        """A directory that does not exist yet."""
        return self.directory / new_request_id()

    async def attempt(self, path: ReadPath, check: Check, caller: Caller, arguments: Arguments) -> Answer:
        """Call a path as somebody.

        Raises:
            ProviderUnavailableError: The installation did not answer; that says nothing about leaks.
        """
        self.findings.tried(path.name, check)
        request_id = new_request_id()
        try:
            with caller.calling(request_id):
                value = await path.call(self.served, arguments)
                return Answer(request_id, value=value)
        except ProviderUnavailableError:
            raise
        except LuminescentError as error:
            return Answer(request_id, error=error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is judged
            self.findings.leaked(path.name, check, f"raised {type(error).__name__}, which is no error of the product")
            return Answer(request_id, error=error)

    async def read(
        self, path: ReadPath, check: Check, company: Company, arguments: Arguments, *, caller: Caller | None = None
    ) -> Answer:
        """Call a path as somebody of `company`, and judge it: only `arguments.user_id` of that tenant may be seen."""
        if path.writes_files(self.served):
            arguments = replace(arguments, directory=self.fresh_directory())
        answer = await self.attempt(path, check, caller or self.caller(company, path), arguments)
        self.judge(path, check, answer, company.tenant_id, self._asked_for(path, company, arguments))
        return answer

    async def compare(
        self, path: ReadPath, check: Check, company: Company, foreign: Arguments, absent: Arguments, caller: Caller
    ) -> None:
        """Try what is another's and what is not there: both must look the same, in the audit log too."""
        theirs = await self.read(path, check, company, foreign, caller=caller)
        nothing = await self.read(path, check, company, absent, caller=caller)
        if theirs.shape() != nothing.shape():
            self.findings.leaked(
                path.name, check, f"{_kind(theirs)} for what is another's, {_kind(nothing)} for nothing"
            )
        self.alike.append(Alike(path.name, company.tenant_id, theirs.request_id, nothing.request_id))

    def must_refuse(self, path: ReadPath, check: Check, answer: Answer, what: str) -> None:
        """Keep it as a leak that a call was answered."""
        if answer.error is None:
            self.findings.leaked(path.name, check, f"answered {what}")

    def judge(self, path: ReadPath, check: Check, answer: Answer, tenant_id: str | None, person: Owner | None) -> None:
        """Keep what the answer shows and should not: it may show `person` of `tenant_id`, by the rules above."""
        for canary in self._canaries_in(answer.text()):
            if not self._may_show(path, answer, canary, tenant_id, person):
                state = "gone " if self.canaries.is_gone(canary) else ""
                what = f"{state}{canary.place} of {_whose(canary, tenant_id, person)}"
                self._seen(path, check, what, answer, tenant_id, f"{canary.value} of {canary.owner.tenant_id}")
        strangers = sum(
            self.canaries.owner_of(memory.id or "") is None and not self.canaries.words_in(memory.content)
            for memory in answer.memories()
        )
        if strangers:
            self._seen(path, check, "memories that are not of this test", answer, tenant_id, f"{strangers} of them")

    def _seen(
        self, path: ReadPath, check: Check, what: str, answer: Answer, tenant_id: str | None, example: str
    ) -> None:
        where = "an error" if answer.error is not None else "an answer"
        self.findings.leaked(path.name, check, f"{where} shows {what}", f"{tenant_id} saw {example}")

    def _may_show(
        self, path: ReadPath, answer: Answer, canary: Canary, tenant_id: str | None, person: Owner | None
    ) -> bool:
        if answer.error is not None:
            return False
        is_id = canary.place in ("memory id", "subject id")
        match path.shows:
            case Shows.CONTENT:
                if person is not None and canary in self._canaries_in(person.user_id):
                    # An export says whom it is about: what the caller typed.
                    return True
                if canary.owner != person:
                    return False
                # Whoever asks what is kept of them is told of what is deleted and not purged yet (Art. 15).
                return not self.canaries.is_gone(canary, but_kept=path.tells_all)
            case Shows.EVERYTHING:
                return canary.owner.tenant_id == tenant_id and not self.canaries.is_gone(canary)
            case Shows.RECORDS:
                return is_id and canary.owner.tenant_id == tenant_id
            case Shows.NUMBERS:
                return canary.place == "subject id" and canary.owner == person and not self.canaries.is_gone(canary)

    def _canaries_in(self, text: str) -> set[Canary]:
        return self.canaries.words_in(text) | self.canaries.ids_in(text)

    def _asked_for(self, path: ReadPath, company: Company, arguments: Arguments) -> Owner | None:
        if path.asked is Asked.PERSON:
            return Owner(company.tenant_id, arguments.user_id)
        owner = self.canaries.owner_of(arguments.memory_id) if path.asked is Asked.MEMORY else None
        return owner if owner is not None and owner.tenant_id == company.tenant_id else None


def living(people: Sequence[Person]) -> list[Person]:
    """Those who were not erased and have memories."""
    return [person for person in people if not person.erased and person.memories]


def _whose(canary: Canary, tenant_id: str | None, person: Owner | None) -> str:
    if canary.owner.tenant_id != tenant_id:
        return "another tenant"
    return "the one who was asked for" if canary.owner == person else "somebody else of the tenant"


def _kind(answer: Answer) -> str:
    if answer.error is not None:
        return f"{type(answer.error).__name__} ({getattr(answer.error, 'code', 'no code')})"
    value = answer.value
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list) else f"{type(value).__name__}"
