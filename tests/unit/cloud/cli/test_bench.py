"""`bench recall`: on a file of invented conversations, through both providers."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud import CloudRuntime, CloudSettings
from cloud.cli.app import build_app
from cloud.cli.locomo import LocomoFileError, read_locomo
from cloud.cli.ports import Program
from cloud.cli.recall import DEPTHS, ablations, measure
from cloud.startup import upkeep
from src.memory.schemas import Memory
from src.memory.scoring import RankingWeights
from tests.support.commands import Command

Document = list[dict[str, Any]]
_numbers = itertools.count(1)
TIMES = ("stored_s", "retrieve_p50_ms", "retrieve_p95_ms", "provider")


def turns(session: int, *said: str) -> list[dict[str, str]]:
    return [
        {"speaker": ("Ada", "Bert")[at % 2], "dia_id": f"D{session}:{at + 1}", "text": text}
        for at, text in enumerate(said)
    ]


def conversation(name: str) -> dict[str, Any]:
    return {
        "sample_id": name,
        "conversation": {
            "speaker_a": "Ada",
            "session_10_date_time": "9:05 am on 2 June, 2031",
            "session_10": [
                *turns(10, "I sold the lathe.", "To whom?", "The museum took it."),
                {"speaker": "Bert", "dia_id": "D10:4", "text": "Look!", "blip_caption": "a heron on a jetty"},
            ],
            "session_2_date_time": "12:30 pm on 28 May, 2031",
            "session_2": turns(2, "My telescope arrived.", "Which mirror?", "Eight inches.", "Cloudy tonight, though."),
            "session_3_date_time": "1:00 pm on 1 June, 2031",
        },
        "qa": [
            {"question": "How large is the telescope?", "evidence": ["D2:1;D2:3"], "category": 4},
            {"question": "Who has the lathe now?", "evidence": ["D10:1 D10:3", "D99:1"], "category": 1},
            {"question": "Which bird was on the jetty?", "evidence": ["D10:4"], "category": 4},
            {"question": "What did Bert never say?", "evidence": ["D2:2"], "category": 5},
            {"question": "What is unknown?", "evidence": [], "category": 3},
            {"question": "What is unknown too?", "category": 3},
        ],
    }


@pytest.fixture
def document() -> Document:
    return [conversation(f"talk-{next(_numbers)}") for _ in range(2)]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    def to_file(document: object) -> Path:
        path = tmp_path / "talks.json"
        path.write_text(json.dumps(document), "utf-8")
        return path

    return to_file


class TestFile:
    def test_each_turn_is_a_memory_in_the_order_of_its_session(self, document: Document, write: Any) -> None:
        first, second = read_locomo(write(document))
        assert [first.user_id, second.user_id] == [each["sample_id"] for each in document]
        assert [memory.metadata for memory in first.memories][3:5] == [
            {"session": 2, "dia_id": "D2:4"},
            {"session": 10, "dia_id": "D10:1"},
        ]
        assert first.memories[1].content == "Bert: Which mirror?"
        assert first.memories[7].content == "Bert: Look! [image: a heron on a jetty]"
        assert first.memories[2].created_at == datetime(2031, 5, 28, 12, 30, 2, tzinfo=UTC)
        assert first.memories[4].created_at == datetime(2031, 6, 2, 9, 5, tzinfo=UTC)
        assert {memory.user_id for memory in first.memories} == {first.user_id}

    def test_questions_without_evidence_and_of_category_5_are_left_out(self, document: Document, write: Any) -> None:
        asked = read_locomo(write(document))[0].questions
        assert [(question.category, set(question.evidence)) for question in asked] == [
            (4, {"D2:1", "D2:3"}),
            (1, {"D10:1", "D10:3", "D99:1"}),
            (4, {"D10:4"}),
        ]

    @pytest.mark.parametrize(
        ("change", "place"),
        [
            (lambda one: one.pop("conversation"), "conversation 1, conversation"),
            (lambda one: one.pop("qa"), "conversation 1, qa"),
            (lambda one: one.update(sample_id=7), "sample_id"),
            (lambda one: one["conversation"].pop("session_2_date_time"), "session_2_date_time"),
            (lambda one: one["conversation"].update(session_2_date_time="secret-4711"), "session_2_date_time"),
            (lambda one: one["conversation"].update(session_2={}), "session_2 "),
            (lambda one: one["conversation"]["session_2"][1].pop("dia_id"), "session_2, turn 2, dia_id"),
            (lambda one: one["conversation"]["session_2"].append("secret-4711"), "session_2, turn 5"),
            (lambda one: one["conversation"]["session_10"][3].update(blip_caption=["secret-4711"]), "blip_caption"),
            (lambda one: one["qa"][0].update(category="secret-4711"), "question 1, category"),
            (lambda one: one["qa"][1].update(evidence="secret-4711"), "question 2, evidence"),
            (lambda one: one["qa"][1].update(question=None), "question 2, question"),
        ],
    )
    def test_a_fault_is_named_by_its_place_and_not_quoted(
        self, document: Document, write: Any, change: Callable[[Any], object], place: str
    ) -> None:
        change(document[0])
        with pytest.raises(LocomoFileError) as raised:
            read_locomo(write(document))
        assert place in str(raised.value)
        assert "4711" not in str(raised.value)

    @pytest.mark.parametrize("whole", [{}, [], [3], "text", None])
    def test_anything_else_is_no_such_file(self, write: Any, whole: object) -> None:
        with pytest.raises(LocomoFileError):
            read_locomo(write(whole))

    def test_two_conversations_of_one_name_are_refused(self, document: Document, write: Any) -> None:
        with pytest.raises(LocomoFileError, match="same sample_id"):
            read_locomo(write([document[0], document[0]]))


class Fixed:
    """A provider that always gives the same turns back, in the order of their storing."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.held: list[Memory] = []

    async def store_many(self, memories: Any, context: Any) -> list[str]:
        self.batches.append(len(memories))
        self.held.extend(memories)
        return []

    async def retrieve(self, query: str, user_id: str, limit: int = 5) -> list[Memory]:
        return [memory for memory in self.held if memory.user_id == user_id][:limit]


async def test_recall_and_reciprocal_rank_are_those_of_their_definitions(document: Document, write: Any) -> None:
    settled: list[int] = []
    fixed = Fixed()

    async def settle() -> None:
        settled.append(len(fixed.held))

    found = await measure(fixed, read_locomo(write(document)), settle=settle)
    assert (found.memories, settled, sum(fixed.batches)) == (16, [16], 16)
    # In the order of storing: D2:1 … D2:4, D10:1 … D10:4.
    telescope, lathe, heron = found.answers[:3]
    assert (telescope.recalls, telescope.reciprocal_rank) == ((1.0, 1.0, 1.0), 1.0)
    assert (lathe.recalls, lathe.reciprocal_rank) == ((1 / 3, 2 / 3, 2 / 3), 1 / 5)
    assert (heron.recalls, heron.reciprocal_rank) == ((0.0, 1.0, 1.0), 1 / 8)
    assert found.summary().recalls[0] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert found.summary(category=4).mrr == pytest.approx((1 + 1 / 8) / 2)
    assert found.summary(user_id=document[1]["sample_id"]).questions == 3
    assert found.summary(category=2).questions == 0


def test_the_cloud_provider_and_the_local_one_give_the_same_results(
    command: Command, document: Document, write: Any
) -> None:
    path = write(document)
    cloud = json.loads(command("--json", "bench", "recall", "--data", path).stdout)
    local = json.loads(command("--json", "bench", "recall", "--data", path, "--local").stdout)
    assert (cloud["provider"], local["provider"]) == ("cloud", "local")
    assert {key: value for key, value in cloud.items() if key not in TIMES} == {
        key: value for key, value in local.items() if key not in TIMES
    }
    assert (cloud["memories"], cloud["questions"]) == (16, 6)
    assert list(cloud["categories"]) == ["1 multi-hop", "4 single-hop"]
    assert cloud["categories"]["4 single-hop"]["recall@10"] == 1.0
    assert all(cloud[f"recall@{depth}"] <= 1 for depth in DEPTHS)
    shown = command("bench", "recall", "--data", path, "--local").stdout
    assert f"{local['recall@10']:.3f}" in shown
    assert document[1]["sample_id"] in shown


def test_conversations_are_chosen_by_number(command: Command, document: Document, write: Any) -> None:
    path = write([*document, conversation("third")])
    chosen = json.loads(
        command("--json", "bench", "recall", "--data", path, "--local", "--conversations", "2-3").stdout
    )
    assert list(chosen["conversations"]) == [document[1]["sample_id"], "third"]
    for wanted in ("0", "4", "3-2", "x", "", "1,,2"):
        result = command("bench", "recall", "--data", path, "--local", "--conversations", wanted)
        assert (result.exit_code, result.stdout) == (2, "")


def test_an_ablation_measures_each_part(command: Command, document: Document, write: Any) -> None:
    rows = json.loads(command("--json", "bench", "recall", "--data", write(document), "--ablate").stdout)["ablation"]
    assert [row["ranking"] for row in rows] == [name for name, _ in ablations(RankingWeights())]
    assert all(row["questions"] == 6 for row in rows)


def test_ablations_leave_out_one_part_each() -> None:
    by_name = dict(ablations(RankingWeights()))
    assert by_name["as set"] == by_name["… and dates"] == RankingWeights()
    # Dates come last, so that is all of it, and all but dates is what came before.
    assert by_name["without dates"] == by_name["… and names"]
    assert len(set(by_name.values())) == len(by_name) - 2


def test_a_file_that_is_none_ends_in_one_line(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    path.write_text("{")
    result = command("bench", "recall", "--data", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[0] == "error: no LoCoMo file: the file is not JSON"


def test_it_uses_an_installation_of_its_own_with_the_weights_of_the_environment(
    runtime: CloudRuntime, document: Document, write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[CloudSettings] = []

    @contextlib.contextmanager
    def open_(settings: CloudSettings) -> Iterator[CloudRuntime]:
        opened.append(settings)
        settings.home.mkdir(exist_ok=True)
        (settings.home / "something").touch()
        yield runtime

    monkeypatch.setenv("LUMINESCENT_CLOUD_HOME", str(tmp_path / "in-use"))
    monkeypatch.setenv("LUMINESCENT_CLOUD_PLANS_FILE", str(tmp_path / "of-another"))
    monkeypatch.setenv("LUMINESCENT_CLOUD_DATE_WEIGHT", "0.25")
    app = build_app(
        Program(
            settings=CloudSettings,
            open=open_,
            open_custody=open_,
            open_backups=open_,
            run_worker=lambda *_: None,
            upkeep=upkeep,
        )
    )
    arguments = ["bench", "recall", "--data", str(write(document))]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (settings,) = opened
    assert not settings.home.exists()
    assert not settings.home.parent.exists()
    assert settings.home != tmp_path / "in-use"
    assert (settings.date_weight, settings.plans_file) == (0.25, None)
    refused = CliRunner().invoke(app, ["--home", str(tmp_path), *arguments])
    assert (refused.exit_code, refused.stdout) == (2, "")
