"""The demo's first scenes: two companies with the same people, their memories stored, found, and readable nowhere."""

from __future__ import annotations

import mmap
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cloud.cli.demo_data import TENANTS, Question, contents, memory_file, questions
from cloud.cli.demo_stage import Stage, stopwatch
from cloud.cli.ports import Runtime
from cloud.kernel.access import Action
from cloud.kernel.context import request_context
from src.memory.schemas import Memory

FIRST, SECOND = TENANTS
TRIAL: Final = "harborlight-trial"
TRIAL_ROOM: Final = 10
PERSON: Final = "alice"
OTHER_PERSON: Final = "bob"
_WITHIN: Final = 5
_SHOWN_QUESTIONS: Final = 2


@dataclass(slots=True)
class Play:
    """What the scenes share.

    Attributes:
        runtime: The installation.
        stage: Where they are shown.
        home: The installation's home.
        keys: API keys by tenant and role.
        written: What each tenant's file says, by person.
    """

    runtime: Runtime
    stage: Stage
    home: Path
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    written: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    @contextmanager
    def acting(self, tenant: str, role: str = "service") -> Iterator[None]:
        """Everything inside runs as the holder of this tenant's API key."""
        with request_context(authorization=f"Bearer {self.keys[tenant, role]}"):
            yield

    async def everything(self, tenant: str, user_id: str) -> list[Memory]:
        """All memories of a person, asked for with the tenant's service key."""
        with self.acting(tenant):
            found = await self.runtime.memory.search(user_id, {}, limit=1_000)
        self.stage.did(tenant, Action.MEMORY_SEARCH)
        return found


def open_tenants(play: Play) -> None:
    """Two companies on the plan team, a third that tries the service out, and an API key for each kind of caller."""
    play.stage.scene("Three tenants, and a key for each caller")
    limits: dict[str, dict[str, int | None]] = {FIRST: {}, SECOND: {}, TRIAL: {"memories": TRIAL_ROOM}}
    for tenant, own in limits.items():
        play.runtime.tenants.create(tenant, plan="team", limits=own)
        play.stage.did(tenant, Action.TENANT_CREATE)
    for tenant, role in (
        (FIRST, "service"),
        (FIRST, "tenant_admin"),
        (FIRST, "member"),
        (SECOND, "service"),
        (TRIAL, "service"),
    ):
        user_id = PERSON if role == "member" else None
        play.keys[tenant, role] = play.runtime.api_keys.create(tenant, roles=[role], user_id=user_id)
        play.stage.did(tenant, Action.API_KEY_CREATE)
    listed = [tenant.tenant_id for tenant in play.runtime.tenants.list()]
    play.stage.did("_system", Action.TENANT_LIST)
    play.stage.check(
        f"created {', '.join(limits)}", set(listed) == set(limits), expected=", ".join(limits), found=listed
    )


async def store(play: Play) -> None:
    """Both files are imported, and materialized by the worker."""
    play.stage.scene("Store 400 memories")
    for tenant in TENANTS:
        watch = stopwatch()
        with memory_file(tenant) as path, play.acting(tenant):
            report = await play.runtime.transfer.import_file(path)
        took_s = watch.s()
        play.stage.did(tenant, Action.MEMORY_IMPORT_STEP)
        play.stage.did(tenant, Action.MEMORY_STORE_MANY, times=report.batches)
        play.stage.did(tenant, Action.MEMORY_IMPORT)
        play.written[tenant] = contents(tenant)
        count = sum(map(len, play.written[tenant].values()))
        play.stage.check(
            f"{tenant}: {report.stored} memories of {len(play.written[tenant])} people stored, can be found",
            report.stored == report.entries == count and report.stopped is None,
            expected=f"{count} memories stored",
            found=f"{report.stored} stored, {report.failed} lines at fault, stopped by {report.stopped}",
            took_s=took_s,
        )
    watch = stopwatch()
    with play.stage.waiting("the worker embeds, seals and writes them to Pixeltable …"):
        await play.runtime.drain()
    play.stage.passed("all of them embedded, sealed and materialized in Pixeltable", took_s=watch.s())
    same = play.written[FIRST].keys() == play.written[SECOND].keys()
    people = ", ".join(sorted(play.written[FIRST]))
    play.stage.check(f"the same user names in both: {people}", same, expected="the same names in both")


async def ask(play: Play) -> None:
    """Every question finds its answer among the first five, from the right company."""
    play.stage.scene("Ask 24 questions")
    missed, leaks, took_s = [], 0, []
    answers: dict[tuple[str, str], dict[str, str]] = {}
    for question in questions():
        found, cold_s = await _retrieved(play, question)
        leaks += sum(memory.content not in play.written[question.tenant][question.user_id] for memory in found)
        answer = next((memory.content for memory in found if question.expected in memory.content), None)
        if answer is None:
            missed.append(question.text)
        else:
            answers.setdefault((question.user_id, question.text), {})[question.tenant] = answer
        took_s.append(cold_s)
    count = len(took_s)
    play.stage.check(
        f"{count - len(missed)} of {count} answers are among the first {_WITHIN} memories found",
        count > 0 and not missed,
        expected=f"the answer to every question among the first {_WITHIN}",
        found=f"not there: {'; '.join(missed)}",
        took_s=sum(took_s),
    )
    play.stage.check(
        "all that was found is this company's and this person's", leaks == 0, expected="0 others", found=leaks
    )
    hot_s = [(await _retrieved(play, question))[1] for question in questions()]
    play.stage.passed(
        f"asked again, now in memory: each in {statistics.median(hot_s) * 1000:.1f} ms (median)", took_s=sum(hot_s)
    )
    _show_both(play, answers)


async def compare(play: Play) -> None:
    """Whoever has the same name in another tenant is another person: all memories are looked at, not a sample."""
    play.stage.scene("Same names, other people")
    wrong = foreign = people = 0
    for tenant, other in ((FIRST, SECOND), (SECOND, FIRST)):
        elsewhere = set().union(*play.written[other].values())
        for user_id, expected in play.written[tenant].items():
            found = {memory.content for memory in await play.everything(tenant, user_id)}
            people += 1
            wrong += found != expected
            foreign += len(found & elsewhere)
    play.stage.check(
        f"{people} people: a search returns what was stored for each, and nothing else",
        wrong == foreign == 0,
        expected="each person's own memories, all of them and no other",
        found=f"{wrong} people with other memories, {foreign} memories of the other company",
    )


def look_on_disk(play: Play) -> None:
    """No stored text is on the disk in the clear; a name that is no secret shows that the looking works."""
    play.stage.scene("What is readable on disk")
    needles = [text.encode() for people in play.written.values() for said in people.values() for text in said]
    watch = stopwatch()
    with play.stage.waiting("reading every file of the installation …"):
        files, size, in_clear, named = _scan(play.home, needles, FIRST.encode())
    play.stage.check(
        f"{len(needles)} memories in {files:,} files of {size / 2**20:.0f} MiB: {in_clear} readable",
        in_clear == 0 and bool(needles),
        expected="no memory readable in any file",
        found=f"{in_clear} readable",
        took_s=watch.s(),
    )
    play.stage.check(
        f"the same look finds the company's name, which is no secret, in {named} files",
        named > 0,
        expected="at least one file with the name, or the search sees nothing",
        found=named,
    )


async def _retrieved(play: Play, question: Question) -> tuple[list[Memory], float]:
    watch = stopwatch()
    with play.acting(question.tenant):
        found = await play.runtime.memory.retrieve(question.text, question.user_id, limit=_WITHIN)
    play.stage.did(question.tenant, Action.MEMORY_RETRIEVE)
    return found, watch.s()


def _show_both(play: Play, answers: dict[tuple[str, str], dict[str, str]]) -> None:
    in_both = [(asked, by_tenant) for asked, by_tenant in answers.items() if len(by_tenant) == len(TENANTS)]
    for (user_id, text), by_tenant in in_both[:_SHOWN_QUESTIONS]:
        play.stage.say(f"{user_id}: {text}", style="italic")
        for tenant in TENANTS:
            play.stage.say(f"  {tenant:<20} {_short(by_tenant[tenant])}", style="dim")


def _short(text: str, columns: int = 54) -> str:
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


def _scan(home: Path, needles: list[bytes], marker: bytes) -> tuple[int, int, int, int]:
    """Files and bytes read, needles found in any of them, and files with the marker."""
    files = size = named = 0
    found: set[bytes] = set()
    for path in sorted(home.rglob("*")):
        # The server makes and removes files meanwhile; sockets and empty files have no bytes.
        try:
            if not path.is_file() or not path.stat().st_size:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                files, size = files + 1, size + len(data)
                named += data.find(marker) >= 0
                found.update(needle for needle in needles if data.find(needle) >= 0)
        except (FileNotFoundError, ValueError):
            continue
    return files, size, len(found), named
