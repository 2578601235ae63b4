"""Laws of tenants and keys as values."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kernel.scope import Role
from cloud.tenancy.model import POOL_SIZE, ApiKeyRecord, new_api_key, pooled_placement, split_api_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tenant_id", "placement"),
    [("acme", "pool_00"), ("acme2", "pool_07"), ("globex", "pool_07"), ("a", "pool_10"), ("z" * 63, "pool_05")],
)
def test_a_tenants_placement_never_changes(tenant_id: str, placement: str) -> None:
    """Memories are where this function said they are: a new release must say the same."""
    assert pooled_placement(tenant_id) == placement


def test_placements_are_sixteen_and_all_in_use() -> None:
    placements = {pooled_placement(f"tenant-{number}") for number in range(1_000)}
    assert placements == {f"pool_{number:02d}" for number in range(POOL_SIZE)}


def record(secret: str, **fields: object) -> ApiKeyRecord:
    values: dict[str, object] = {
        "key_id": "k",
        "tenant_id": "acme",
        "secret_hash": hashlib.sha256(secret.encode()).digest(),
        "roles": frozenset({Role.SERVICE}),
        "subject_id": None,
        "user_sealed": None,
        "expires_at": None,
        "revoked_at": None,
    }
    return ApiKeyRecord(**(values | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({}, None),
        ({"expires_at": NOW + timedelta(microseconds=1)}, None),
        ({"expires_at": NOW}, "expired_key"),
        ({"revoked_at": NOW + timedelta(days=1)}, "revoked_key"),
        ({"revoked_at": NOW, "expires_at": NOW}, "revoked_key"),
    ],
)
def test_a_key_opens_until_it_expires_or_is_revoked(fields: dict[str, object], refusal: str | None) -> None:
    assert record("s", **fields).refusal("s", NOW) == refusal


def test_without_the_secret_nobody_learns_what_became_of_a_key() -> None:
    dead = record("s", revoked_at=NOW, expires_at=NOW)
    for wrong in ("", "S", "s ", "ss", "é"):
        assert dead.refusal(wrong, NOW) == "invalid_key"


def test_a_new_key_splits_into_its_id_and_a_secret_of_256_bits_that_its_hash_knows() -> None:
    key_id, text, secret_hash = new_api_key()
    split = split_api_key(text)
    assert split is not None
    assert split == split_api_key(f"Bearer {text}")
    assert split[0] == key_id
    assert len(bytes.fromhex(split[1])) == 32
    assert hashlib.sha256(split[1].encode()).digest() == secret_hash
    assert len({new_api_key()[1] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text", ["", "Bearer ", "lc", "lc_", "lc_a", "lc_a_b_c", "sk_a_b", "Basic lc_a_b", "lc_a_b" + "c" * 200, "lc_á_b"]
)
def test_other_texts_are_no_keys(text: str) -> None:
    assert split_api_key(text) is None


@given(st.text(max_size=200))
def test_no_text_breaks_the_splitting(text: str) -> None:
    assert split_api_key(text) is None or text.removeprefix("Bearer ").strip().startswith("lc_")
