"""Files to import, made of invented people, and ways to import and export them as somebody."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cloud import CloudRuntime, request_context
from cloud.transfer.model import ExportReport, ImportReport
from src.memory.schemas import Memory


def lines(*people: tuple[str, int], **changes: object) -> list[dict[str, Any]]:
    """So many memories of each person, in turns."""
    return [
        {"user_id": user, "content": f"{user} {at}", "memory_type": "fact", "source": "test", **changes}
        for at in range(max(count for _, count in people))
        for user, count in people
        if at < count
    ]


def written(path: Path, documents: Iterable[object]) -> Path:
    """A file of JSON Lines."""
    path.write_text("\n".join(json.dumps(document) for document in documents), "utf-8")
    return path


async def imported(
    runtime: CloudRuntime, tenant_id: str, path: Path, role: str = "service", **arguments: Any
) -> ImportReport:
    """The file, imported by somebody of this role."""
    with request_context(tenant_id=tenant_id, roles={role}):
        return await runtime.transfer.import_file(path, **arguments)


async def exported(
    runtime: CloudRuntime, tenant_id: str, path: Path, role: str = "tenant_admin", **arguments: Any
) -> ExportReport:
    """An export by somebody of this role."""
    with request_context(tenant_id=tenant_id, roles={role}):
        return await runtime.transfer.export(path, **arguments)


async def everything(runtime: CloudRuntime, tenant_id: str, user_id: str) -> list[Memory]:
    """All that a person has."""
    with request_context(tenant_id=tenant_id, roles={"service"}):
        return await runtime.memory.search(user_id, {}, limit=1_000)
