"""Laws of the published schemas: they are schemas, they have no holes, and the package holds what the bundle does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cloud.gdpr.export import EXPORT_SCHEMA, SCHEMAS, schema
from cloud.gdpr.subject_rows import ROWS


def nodes(node: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for name, inner in node.items():
            yield from nodes(inner, f"{path}.{name}")
    elif isinstance(node, list):
        for place, inner in enumerate(node):
            yield from nodes(inner, f"{path}[{place}]")


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_names_the_version(name: str) -> None:
    document = json.loads(schema(name))
    Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert f":{EXPORT_SCHEMA}:" in document["$id"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_object_admits_what_the_schema_does_not_describe(name: str) -> None:
    for path, node in nodes(json.loads(schema(name))):
        if node.get("type") == "object":
            assert "additionalProperties" in node, path
            # Names of their own choosing have values of a described kind; `true` would admit anything.
            assert node["additionalProperties"] is False or node["additionalProperties"], path
            assert node["additionalProperties"] is not True, path
        if node.get("type") == "array":
            assert node.get("items"), path


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_described_member_is_required_or_said_to_be_absent(name: str) -> None:
    may_be_absent = {
        "person.schema.json": {"subjects", "memory_changes", "api_keys", "idempotency_keys", "erasures", "legal_holds"},
        "events.schema.json": {"subject_id", "subject_ids", "said"},
        "memories.schema.json": set(),
    }
    document = json.loads(schema(name))
    assert set(document["properties"]) - set(document["required"]) == may_be_absent[name]


def test_the_tables_that_are_told_are_described() -> None:
    person, memory = json.loads(schema("person.schema.json")), json.loads(schema("memories.schema.json"))
    for rows in ROWS.values():
        name = rows.table.name
        if not rows.told:
            continue
        described = memory if name == "memories" else person["properties"][name]["items"]
        told = {"memories": {"memory_id": "id"}, "api_keys": {"ranges_sealed": "ip_ranges"}}.get(name, {})
        assert {told.get(column, column) for column in rows.told} <= set(described["properties"]), name
