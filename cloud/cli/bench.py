"""`luminescent-cloud bench`: measures the product on data of one's own, in an installation made for it."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import RenderableType

from cloud.cli.invocation import Invocation, invocation
from cloud.cli.locomo import Conversation, read_locomo
from cloud.cli.output import table
from cloud.cli.progress import Bar, progress
from cloud.cli.recall import DEPTHS, Recall, Summary, ablations, measure
from cloud.cli.temporary import shipped_settings, temporary_home
from cloud.kernel.context import request_context
from cloud.settings import CloudSettings
from src.memory.embedding import Embedder, HashingEmbedder, WordLlamaEmbedder
from src.memory.providers.local import LocalMemoryProvider
from src.memory.scoring import RankingWeights

app = typer.Typer(no_args_is_help=True, help="Measure: how much of what should be found is found.")

_TENANT: Final = "bench"
_SETTLE_S: Final = 600.0
_RANKING: Final = ("embedder", *(name for name in CloudSettings.model_fields if name.endswith("_weight")))
_RANGE: Final = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_CATEGORIES: Final = {1: "multi-hop", 2: "temporal", 3: "open domain", 4: "single-hop"}
_COLUMNS: Final = ("", "questions", *(f"recall@{depth}" for depth in DEPTHS), "MRR")


@app.callback()
def _group() -> None:
    # A group of one command would otherwise become that command, and `bench recall` would not be understood.
    return


@app.command()
def recall(
    ctx: typer.Context,
    data: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, readable=True, metavar="FILE", help="Conversations, as LoCoMo has."),
    ],
    conversations: Annotated[
        str | None, typer.Option(metavar="LIST", help="Which of them, such as 1-3 or 2,5; all if left out.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Measure the provider in memory; it ranks alike and needs no database.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Measure what each part of the ranking is worth; implies --local.")
    ] = False,
) -> None:
    """Measure recall@5, @10, @20 and MRR of retrieve on a file of conversations with questions.

    Each turn becomes a memory of an installation made for this and removed afterwards. Then every question that names
    its evidence is asked, category 5 left out. Weights and embedder are those that the environment sets.
    """
    run = invocation(ctx)
    if run.home is not None:
        raise typer.BadParameter("bench makes an installation of its own", param_hint="--home")
    own = run.settings()
    chosen = _chosen(read_locomo(data), conversations)
    if ablate:
        with progress(run.output, "Measuring") as bar:
            rows = asyncio.run(_ablation(chosen, own, bar))
        _show_ablation(run, rows)
    elif local:
        with progress(run.output, "Measuring") as bar:
            measured = asyncio.run(measure(_local(own, own.ranking_weights()), chosen, progress=bar.told))
        _show(run, measured, chosen, "local")
    else:
        _show(run, _cloud(run, own, chosen), chosen, "cloud")


def _cloud(run: Invocation, own: CloudSettings, chosen: list[Conversation]) -> Recall:
    with temporary_home() as home, progress(run.output, "Measuring") as bar:
        settings = shipped_settings(home).model_copy(update={name: getattr(own, name) for name in _RANKING})
        with run.program.open(settings) as runtime:
            runtime.tenants.create(_TENANT, plan="enterprise")
            with request_context(tenant_id=_TENANT, roles={"service"}):
                return asyncio.run(
                    measure(
                        runtime.memory, chosen, settle=lambda: runtime.drain(timeout_s=_SETTLE_S), progress=bar.told
                    ),
                )


def _local(own: CloudSettings, weights: RankingWeights) -> LocalMemoryProvider:
    embedder: Embedder = HashingEmbedder() if own.embedder == "hashing" else WordLlamaEmbedder()
    return LocalMemoryProvider(embedder=embedder, weights=weights)


async def _ablation(chosen: list[Conversation], own: CloudSettings, bar: Bar) -> list[tuple[str, Summary]]:
    rows = []
    for name, weights in ablations(own.ranking_weights()):
        told = partial(bar.phase, f"Measuring: {name}")
        rows.append((name, (await measure(_local(own, weights), chosen, progress=told)).summary()))
    return rows


def _chosen(conversations: list[Conversation], wanted: str | None) -> list[Conversation]:
    if wanted is None:
        return conversations
    numbers: set[int] = set()
    for part in wanted.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found is not None else (0, 0)
        if not 1 <= first <= last <= len(conversations):
            reason = f"takes numbers from 1 to {len(conversations)}, such as 1-3 or 2,5"
            raise typer.BadParameter(reason, param_hint="--conversations")
        numbers.update(range(first, last + 1))
    return [conversations[number - 1] for number in sorted(numbers)]


def _show(run: Invocation, measured: Recall, chosen: list[Conversation], provider: str) -> None:
    by_category = {
        f"{category} {_CATEGORIES.get(category, '')}".strip(): measured.summary(category=category)
        for category in sorted({answer.category for answer in measured.answers})
    }
    by_conversation = {each.user_id: measured.summary(user_id=each.user_id) for each in chosen}
    p50_ms, p95_ms = measured.latency_ms()
    document = {
        "provider": provider,
        "memories": measured.memories,
        "stored_s": round(measured.stored_s, 3),
        "retrieve_p50_ms": round(p50_ms, 3),
        "retrieve_p95_ms": round(p95_ms, 3),
        **measured.summary().document(),
        "categories": {name: summary.document() for name, summary in by_category.items()},
        "conversations": {name: summary.document() for name, summary in by_conversation.items()},
    }
    run.output.result(
        document,
        _table([("all", measured.summary()), *by_category.items(), *by_conversation.items()]),
        f"\n{measured.memories:,} memories stored in {measured.stored_s:.1f} s by the {provider} provider;"
        f" retrieve takes {p50_ms:.1f} ms (p50), {p95_ms:.1f} ms (p95).",
    )


def _show_ablation(run: Invocation, rows: list[tuple[str, Summary]]) -> None:
    document = {"provider": "local", "ablation": [{"ranking": name, **summary.document()} for name, summary in rows]}
    run.output.result(document, _table(rows))


def _table(rows: list[tuple[str, Summary]]) -> RenderableType:
    return table(
        _COLUMNS,
        [
            (name, str(each.questions), *(f"{recall:.3f}" for recall in each.recalls), f"{each.mrr:.3f}")
            for name, each in rows
        ],
        right=_COLUMNS[1:],
    )
