"""The demo's later scenes: who is kept out, where a quota stops, what an erasure leaves, what the log says of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

from cloud.audit.model import Outcome
from cloud.cli.demo_data import TENANTS
from cloud.cli.demo_scenes import FIRST, OTHER_PERSON, PERSON, SECOND, TRIAL, TRIAL_ROOM, Play
from cloud.cli.demo_stage import Operation, stopwatch
from cloud.cli.output import table
from cloud.gdpr.model import Erasure, ErasurePreview
from cloud.kernel.access import Action
from cloud.kernel.context import request_context
from cloud.kernel.errors import QuotaExceededError
from cloud.kernel.ids import SYSTEM_LOG, new_memory_id
from src.memory.schemas import Memory, MemoryType

_WRITERS: Final = 20
_NOT_COUNTED: Final = frozenset({Action.ERASURE_STEP, Action.SERVICE_START, Action.AUDIT_EXPORT_STEP})
"""Events of what the service does by itself."""


async def keep_out(play: Play) -> None:
    """Whoever is nobody, pretends, or belongs elsewhere gets nothing, and the attempt is on record."""
    stage, memory = play.stage, play.runtime.memory
    stage.scene("A stranger")
    await stage.refused("nobody is calling", memory.retrieve("anything", PERSON), "authentication", "no_scope")
    stage.did(SYSTEM_LOG, Action.MEMORY_RETRIEVE, Outcome.DENIED)

    key = play.keys[FIRST, "service"]
    with request_context(authorization=f"Bearer {key[:-1]}{'0' if key[-1] != '0' else '1'}"):
        await stage.refused(
            "an API key with one digit changed", memory.search(PERSON, {}), "authentication", "invalid_key"
        )
    stage.did(SYSTEM_LOG, Action.MEMORY_SEARCH, Outcome.DENIED)

    with request_context(authorization=f"Bearer {play.keys[SECOND, 'service']}", tenant_id=FIRST):
        await stage.refused(
            f"{SECOND}'s key, naming {FIRST}", memory.search(PERSON, {}), "tenant_isolation", "conflict"
        )
    stage.did(SYSTEM_LOG, Action.MEMORY_SEARCH, Outcome.DENIED)

    theirs = (await play.everything(FIRST, PERSON))[0].id
    assert theirs is not None
    with play.acting(SECOND):
        tried = [await memory.get_by_id(theirs), await memory.get_by_id(new_memory_id())]
        deleted = [await memory.delete(theirs), await memory.delete(new_memory_id())]
    stage.did(SECOND, Action.MEMORY_GET, times=2)
    stage.did(SECOND, Action.MEMORY_DELETE, times=2)
    stage.check(
        f"{SECOND}'s key with a memory id of {FIRST}: None, as for any unknown id",
        tried == [None, None] and deleted == [False, False],
        expected="None and False, for both ids",
        found=(["a memory" if one else None for one in tried], deleted),
    )
    with play.acting(FIRST, "member"):
        await stage.refused(
            f"{PERSON}'s own key for {OTHER_PERSON}'s memories",
            memory.search(OTHER_PERSON, {}),
            "permission_denied",
            "other_user",
        )
    stage.did(FIRST, Action.MEMORY_SEARCH, Outcome.DENIED)
    with play.acting(FIRST):
        attempt = play.runtime.gdpr.delete_user_data(PERSON, FIRST, confirmed=True)
        await stage.refused("erasing a person with a service key", attempt, "permission_denied", "role_missing")
    stage.did(FIRST, Action.ERASURE, Outcome.DENIED)

    play.runtime.tenants.suspend(TRIAL)
    with play.acting(TRIAL):
        await stage.refused(
            "a suspended tenant", memory.retrieve("anything", PERSON), "permission_denied", "tenant_suspended"
        )
    play.runtime.tenants.resume(TRIAL)
    stage.did(TRIAL, Action.TENANT_SUSPEND)
    stage.did(TRIAL, Action.MEMORY_RETRIEVE, Outcome.DENIED)
    stage.did(TRIAL, Action.TENANT_RESUME)


async def fill_up(play: Play) -> None:
    """Twenty writers at once, room for ten: ten are admitted."""
    play.stage.scene("A quota that stops exactly")

    async def write(number: int) -> str | None:
        memory = Memory(
            user_id=PERSON, content=f"Trial note {number}", memory_type=MemoryType.FACT, source="conversation"
        )
        try:
            return await play.runtime.memory.store(memory, {})
        except QuotaExceededError:
            return None

    watch = stopwatch()
    with play.acting(TRIAL):
        answers = await asyncio.gather(*(write(number) for number in range(_WRITERS)))
    took_s = watch.s()
    admitted = len({answer for answer in answers if answer is not None})
    play.stage.did(TRIAL, Action.MEMORY_STORE, times=admitted)
    play.stage.did(TRIAL, Action.MEMORY_STORE, Outcome.DENIED, times=_WRITERS - admitted)
    used = play.runtime.usage.get_usage_summary(TRIAL)["memories"]
    play.stage.did(TRIAL, Action.USAGE_READ)
    # Of four fifths of the room, and of all of it.
    play.stage.did(TRIAL, Action.USAGE_THRESHOLD, times=2)
    stock = len(await play.everything(TRIAL, PERSON))
    play.stage.check(
        f"{_WRITERS} writers at once, room for {TRIAL_ROOM}: {admitted} admitted, {_WRITERS - admitted} refused,"
        f" {stock} in stock",
        admitted == stock == TRIAL_ROOM and used == {"used": TRIAL_ROOM, "limit": TRIAL_ROOM},
        expected=f"{TRIAL_ROOM} admitted, {TRIAL_ROOM} counted, {TRIAL_ROOM} found",
        found=f"{admitted} admitted, counted {used}, {stock} found",
        took_s=took_s,
    )


async def erase(play: Play) -> None:
    """A person is erased from one company: nothing of them is left there, and nobody else is touched."""
    stage, memory, gdpr = play.stage, play.runtime.memory, play.runtime.gdpr
    stage.scene(f"Erase {PERSON} of {FIRST}")
    before = await play.everything(FIRST, PERSON)
    with play.acting(FIRST, "tenant_admin"):
        preview = await gdpr.delete_user_data(PERSON, FIRST)
        watch = stopwatch()
        erased = await gdpr.delete_user_data(PERSON, FIRST, confirmed=True, reason="demo")
        took_s = watch.s()
        again = await gdpr.delete_user_data(PERSON, FIRST)
    stage.did(FIRST, Action.ERASURE_PREVIEW, times=2)
    stage.did(FIRST, Action.ERASURE)
    assert isinstance(preview, ErasurePreview)
    assert isinstance(erased, Erasure)
    assert isinstance(again, ErasurePreview)
    stage.check(
        f"preview: {preview.memories} memories and everything that belongs to them",
        preview.memories == preview.counts["pixeltable.memories"] == len(before) == len(play.written[FIRST][PERSON]),
        expected=f"{len(before)} memories in the ledger and in Pixeltable",
        found=f"{preview.memories} and {preview.counts['pixeltable.memories']}",
    )
    rows = [(place, str(count)) for place, count in preview.counts.items() if count]
    stage.show(table(("place", "records"), rows, right=("records",)))
    stage.check(
        "confirmed: key destroyed, rows deleted everywhere, looked again",
        erased.is_done,
        expected="verified",
        found=erased.state.value,
        took_s=took_s,
    )
    with play.acting(FIRST):
        left = await memory.retrieve("Which text editor?", PERSON) + await memory.search(PERSON, {}, limit=1_000)
        by_id = [await memory.get_by_id(one.id or "") for one in before]
    stage.did(FIRST, Action.MEMORY_RETRIEVE)
    stage.did(FIRST, Action.MEMORY_SEARCH)
    stage.did(FIRST, Action.MEMORY_GET, times=len(before))
    found = len(left) + sum(one is not None for one in by_id)
    stage.check(
        f"retrieve, search and all {len(before)} ids: {found} found; a new preview: {again.memories}",
        found == again.memories == 0 and again.subject_id is None,
        expected="nothing found",
        found=f"{found} memories, {again.memories} in a new preview",
    )
    with play.acting(FIRST, "member"):
        await stage.refused(f"{PERSON}'s own key", memory.search(PERSON, {}), "authentication", "invalid_key")
    stage.did(SYSTEM_LOG, Action.MEMORY_SEARCH, Outcome.DENIED)
    touched = people = 0
    for tenant in TENANTS:
        for user_id, expected in play.written[tenant].items():
            if (tenant, user_id) != (FIRST, PERSON):
                people += 1
                touched += {one.content for one in await play.everything(tenant, user_id)} != expected
    stage.check(
        f"the {people} others, {PERSON} of {SECOND} among them, have all of theirs",
        touched == 0,
        expected="everybody else's memories as before",
        found=f"{touched} people changed",
    )


def read_log(play: Play, directory: Path) -> None:
    """The exported log of each tenant has one event for each operation and each passed threshold, and no other."""
    play.stage.scene("The audit log of all of it")
    logs = (*TENANTS, TRIAL, SYSTEM_LOG)
    events = []
    for log_id in logs:
        path = play.runtime.audit.export(log_id, directory / log_id)
        events += [json.loads(line) for line in path.read_bytes().splitlines()]
    recorded: Counter[Operation] = Counter(
        (event["log_id"], Action(event["action"]), Outcome(event["outcome"]))
        for event in events
        if event["action"] not in _NOT_COUNTED
    )
    actions = sorted({action for _, action, _ in recorded})
    rows = [(action.value, *(_cell(recorded, log_id, action) for log_id in logs)) for action in actions]
    play.stage.show(table(("+allowed -denied", *(log_id.partition("-")[0] for log_id in logs)), rows))
    differing = {
        operation for operation in recorded | play.stage.done if recorded[operation] != play.stage.done[operation]
    }
    play.stage.check(
        f"{play.stage.done.total()} operations and passed thresholds, {recorded.total()} events recorded: one for each",
        not differing,
        expected="one event for each of them",
        found="; ".join(
            f"{log_id} {action.value} {outcome.value}: {play.stage.done[log_id, action, outcome]} done,"
            f" {recorded[log_id, action, outcome]} recorded"
            for log_id, action, outcome in sorted(differing)
        ),
    )
    text = json.dumps(events, ensure_ascii=False)
    personal = set().union(*(said | {user_id} for people in play.written.values() for user_id, said in people.items()))
    told = sum(one in text for one in personal)
    play.stage.check("no content and no user name in it", told == 0, expected="ids, codes and counts alone", found=told)
    _show_one(play, events)
    play.stage.say(f"exported to {directory}", style="dim")


def _show_one(play: Play, events: list[dict[str, Any]]) -> None:
    event = next((one for one in events if (one["action"], one["outcome"]) == ("gdpr.erase", "allowed")), None)
    if event is not None:
        who = f"{event['actor']['kind']} {event['actor']['id']} ({', '.join(event['actor']['roles'])})"
        play.stage.say(f"such as: {event['occurred_at']} {event['action']} {event['outcome']}", style="dim")
        play.stage.say(f"         by {who}", style="dim")
        play.stage.say(
            f"         of subject {event['subject_id']}, in {event['latency_us'] / 1000:.0f} ms", style="dim"
        )


def _cell(recorded: Counter[Operation], log_id: str, action: Action) -> str:
    allowed, denied = recorded[log_id, action, Outcome.ALLOWED], recorded[log_id, action, Outcome.DENIED]
    failed = recorded[log_id, action, Outcome.FAILED]
    parts = [f"+{allowed}" * bool(allowed), f"-{denied}" * bool(denied), f"!{failed}" * bool(failed)]
    return " ".join(part for part in parts if part) or "·"
