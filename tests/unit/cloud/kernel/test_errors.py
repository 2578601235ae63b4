"""Laws of the exception tree: one root, one code each, facts in attributes, and no text of others."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import cloud.kernel.errors as errors
from cloud.audit.model import reason_of
from src.errors import LuminescentError


def tree(root: type[LuminescentError]) -> set[type[LuminescentError]]:
    found = {root}
    for child in root.__subclasses__():
        found |= tree(child)
    return found


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in tree(LuminescentError)]
    assert len(codes) == len(set(codes))
    assert all(code.replace("_", "").isalpha() and code.islower() for code in codes)


def test_the_modules_names_are_its_whole_tree() -> None:
    ours = {error for error in tree(LuminescentError) if error.__module__ in ("cloud.kernel.errors", "src.errors")}
    assert {getattr(errors, name) for name in errors.__all__} == ours


def test_only_what_may_succeed_later_says_so() -> None:
    retryable = {error.code for error in tree(LuminescentError) if error.retryable}
    assert retryable == {"unavailable", "erasure_incomplete", "token_keys_unavailable", "in_progress"}


def test_a_full_quota_tells_its_facts() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    full = errors.QuotaExceededError(meter="memories", limit=200, used=199, requested=2, resets_at=moment)
    assert (full.meter, full.limit, full.used, full.requested, full.resets_at) == ("memories", 200, 199, 2, moment)
    assert "2030-01-01" in str(full)
    assert "deleting" in str(errors.QuotaExceededError(meter="memories", limit=1, used=1))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.AuthenticationError("no_scope", "nobody is calling"), "authentication:no_scope"),
        (errors.PermissionDeniedError(action="memory.store", reason="other_user"), "permission_denied:other_user"),
        (errors.TenantIsolationError("empty"), "tenant_isolation:empty"),
        (errors.InvalidMemoryError(field="content", reason="holds 'my diary'"), "invalid_memory"),
        (errors.InvalidFilterError(place="$and", reason="José"), "invalid_filter"),
        (errors.ProviderUnavailableError("control plane"), "unavailable"),
        (errors.ProviderUnavailableError("x", reason="alice@example.com"), "unavailable"),
        (errors.ConfigurationError("the file /home/alice"), "configuration"),
        (errors.IdempotencyConflictError(), "idempotency_conflict"),
        (errors.ReservationClosedError("released"), "reservation_closed:released"),
        (errors.QuotaExceededError(meter="memories", limit=1, used=1), "quota_exceeded"),
    ],
)
def test_the_log_gets_codes_and_never_a_sentence(error: LuminescentError, reason: str) -> None:
    assert reason_of(error) == reason
