"""What a person is told about the processing besides the data: what the installation knows, and what it cannot know.

Purposes, recipients and rights are the controller's to say. Where nobody said them, the export says so, instead of
making something up.

Source:
    GDPR Art. 15(1)(a) to (h), 15(2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cloud.kernel.errors import ConfigurationError

NOTICE_CHARACTERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Topic:
    """One point that a person is told.

    Attributes:
        clause: The clause that demands it.
        heading: What it is called.
        known: What the installation knows of it.
        asked: What the controller has to add; `None` where nothing is missing.
    """

    clause: str
    heading: str
    known: str
    asked: str | None = None


TOPICS: Final[Mapping[str, Topic]] = {
    "controller": Topic(
        "Art. 15(1)",
        "Who is responsible",
        "The organisation that runs the service decides what is remembered and why. The memory system acts for it.",
        "name and contact of the organisation, and of its data protection officer if it has one",
    ),
    "purposes": Topic(
        "Art. 15(1)(a)",
        "What it is used for",
        "The memories are given to software agents of the service, so that they know in a later conversation what was"
        " said in an earlier one. The log of events is kept to prove what was done with the data.",
        "the purposes of the service, and the legal basis of each",
    ),
    "categories": Topic(
        "Art. 15(1)(b)",
        "What kinds of data",
        "Memories: short statements about you, each with its type, its times, where it came from and what the service"
        " noted with it. Derived from each: a vector of numbers that stands for its meaning, and an index of its words."
        " Besides: changes to memories, keys that act in your name, and a log of events without any content.",
    ),
    "recipients": Topic(
        "Art. 15(1)(c)",
        "Who receives it",
        "Each memory below says who called it up and when. A caller is shown by its kind, its role and the id of its"
        " key. Inside the service, an administrator of the database sees sealed data alone.",
        "who is behind the ids of the keys, and any other recipient, such as the provider of a language model",
    ),
    "transfers": Topic(
        "Art. 15(1)(c), 15(2)",
        "Whether it leaves the country",
        "The memory system sends memories to nobody by itself.",
        "where the servers stand, and the safeguards of a transfer to another country",
    ),
    "retention": Topic(
        "Art. 15(1)(d)",
        "How long it is kept",
        "A memory is kept until it expires, is replaced or is deleted. A deleted memory can be brought back for"
        " {deleted_days} days, and is then removed when the operator cleans up. When you are erased, everything is"
        " deleted and its key destroyed; the log of events stays and then points to nobody.",
        "how long memories are kept that nobody deletes",
    ),
    "rights": Topic(
        "Art. 15(1)(e), (f)",
        "Your rights",
        "You can ask for correction (Art. 16), erasure (Art. 17), restriction (Art. 18), to take the data elsewhere"
        " (Art. 20: memories.jsonl is made for that), and you can object (Art. 21). You can complain to a supervisory"
        " authority.",
        "where to send such a request, and which supervisory authority is in charge",
    ),
    "source": Topic(
        "Art. 15(1)(g)",
        "Where it comes from",
        "Each memory says under “Where it came from” what the service noted when it stored it, and who stored it.",
    ),
    "automated_decisions": Topic(
        "Art. 15(1)(h)",
        "Automated decisions",
        "The memory system ranks memories by how well they fit a question. It decides nothing about you.",
        "whether decisions about you are made by machines alone, how, and with what consequences",
    ),
}
"""In the order in which they are told."""


def check_notice(notice: Mapping[str, str]) -> None:
    """Return if the controller said nothing but what can be told.

    Raises:
        ConfigurationError: A topic is unknown, or a text is no text or too long.
    """
    for name, text in notice.items():
        if name not in TOPICS:
            raise ConfigurationError(f"the notice has a topic that is not known: topics are {', '.join(TOPICS)}")
        if not isinstance(text, str) or not text.strip() or len(text) > NOTICE_CHARACTERS:
            raise ConfigurationError(f"the notice's {name} must be a text of at most {NOTICE_CHARACTERS:,} characters")


def told(notice: Mapping[str, str], deleted_retention: timedelta) -> list[dict[str, object]]:
    """Every topic, with what is known and what the controller said."""
    days = f"{deleted_retention / timedelta(days=1):g}"
    return [
        {
            "topic": name,
            "clause": topic.clause,
            "heading": topic.heading,
            "known": topic.known.replace("{deleted_days}", days),
            "controller": notice.get(name),
        }
        for name, topic in TOPICS.items()
    ]
