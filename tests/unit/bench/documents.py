"""Small results, as a run would leave them."""

from __future__ import annotations

from typing import Any

from tests.bench.figures import Round, cell

TITLES = {
    "ours": "luminescent-cloud",
    "pixeltable": "Pixeltable directly",
    "langgraph": "LangGraph PostgresStore",
    "mem0": "mem0 (local Qdrant)",
    "local": "LocalMemoryProvider",
    "limits": "physical limits",
}
OPERATIONS = ("store", "retrieve", "search", "search_text", "retrieve_cold", "delete")


def cell_of(*took_ms: float, rounds: int = 2, failed: int = 0) -> dict[str, Any]:
    """A cell with the same times in each round."""
    errors = ["OperationalError"] if failed else []
    return cell([Round(list(took_ms), failed, 0.5, {"own": 4.0, "server": 2.0}, errors=errors) for _ in range(rounds)])


def document(*, ours_ms: float = 2.0, peers_ms: float = 8.0, insert_ms: float = 1.0) -> dict[str, Any]:
    """Results in which every bar holds unless the times say otherwise."""
    everybody = {name: cell_of(ours_ms if name == "ours" else peers_ms) for name in TITLES}
    held = {"memory_bytes": 50 << 20}
    loaded = {"memories": 10, "settled_s": 2.0, "disk_bytes_per_memory": 2_000.0, "empty_memory_bytes": 40 << 20}
    figures = {"calls": 5, "p50": 1.0, "p95": 2.0, "p99": 3.0}
    rates = {"memories": 10, "per_s": 4_000.0, "materialized_per_s": 2_000.0}
    growth = {
        f"total-{number}": {
            "kind": "total",
            "number": number,
            "people": 1,
            "each": number,
            "cells": {operation: cell_of(ms) for operation in OPERATIONS},
            "sizes": held,
            "loaded": loaded,
            "commit": f"{number:x}".ljust(40, "0"),
            "begun": f"2026-01-02T00:00:{number % 7:02}Z",
        }
        for number, ms in ((10_000, 2.0), (1_000_000, 2.5))
    }
    return {
        "plan": {"people": 2, "each": 5, "callers": [1], "scale_people": 4},
        "commit": "0123456789ab",
        "machine": {"processor": "X", "cores": 2, "memory_gib": 4.0, "kernel": "Linux 6", "disk": "ext4"},
        "command": "python -m tests.bench",
        "begun": "2026-01-01T00:00:00Z",
        "ended": "2026-01-01T00:30:00Z",
        "versions": {"python": "3.11.1", "ours": {"psycopg": "3.3"}},
        "titles": TITLES,
        "side_by_side": {
            "cells": {f"{operation}/1": everybody for operation in OPERATIONS},
            "sizes": dict.fromkeys(TITLES, held),
            "loaded": dict.fromkeys(TITLES, loaded),
        },
        "scale": {
            "cells": {
                f"{operation}/1": {"ours": cell_of(ours_ms), "limits": cell_of(insert_ms)} for operation in OPERATIONS
            },
            "sizes": {"ours": held},
            "loaded": {"ours": loaded},
        },
        "throughput": {
            "hot_memory": {"memories": 13, "bytes_per_memory": 1_400.0},
            "retrieves": figures | {"per_s": 900.0},
            "stores": figures | {"per_s": 800.0, "backlog": [0, 700, 600, 800, 700, 650], "drained_s": 0.5},
            "beside": {
                "alone": figures,
                "beside_stores": figures,
                "beside_stores_worker_held": figures,
                "stores_per_s": 199.0,
            },
            "cold": dict.fromkeys(("load", "hot_alone", "hot_beside_loads", "eight_callers"), figures),
            "store_many": rates,
            "import": rates,
            "done": {"tenants": 8},
        },
        "growth": growth,
    }
