"""Every error of the tree ends a command with a documented exit code, and none with success."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloud.cli.failures import ExitCode, exit_code, next_step
from cloud.kernel import errors
from cloud.kernel.errors import LuminescentError

EXAMPLES: dict[LuminescentError, ExitCode] = {
    errors.ConfigurationError("x"): ExitCode.FAILED,
    errors.UnknownTenantError(): ExitCode.DENIED,
    errors.IdempotencyConflictError(): ExitCode.FAILED,
    errors.ReservationClosedError("released"): ExitCode.FAILED,
    errors.KeyDestroyedError(): ExitCode.FAILED,
    errors.MemoryNotFoundError(): ExitCode.FAILED,
    errors.RevisionConflictError(expected=1, current=2): ExitCode.FAILED,
    errors.OperationInProgressError("x"): ExitCode.UNAVAILABLE,
    errors.SealBrokenError(): ExitCode.FAILED,
    errors.InvalidMemoryError(field="content", reason="is empty"): ExitCode.USAGE,
    errors.InvalidFilterError(place="limit", reason="must be from 1"): ExitCode.USAGE,
    errors.AuthenticationError("no_key", "x"): ExitCode.DENIED,
    errors.TokenKeysUnavailableError(): ExitCode.UNAVAILABLE,
    errors.PermissionDeniedError(action="memory.store", reason="role_missing"): ExitCode.DENIED,
    errors.TenantIsolationError("conflict"): ExitCode.DENIED,
    errors.QuotaExceededError(meter="memories", limit=1, used=1): ExitCode.QUOTA,
    errors.QuotaExceededError(
        meter="reads", limit=1, used=1, resets_at=datetime(2026, 2, 1, tzinfo=UTC)
    ): ExitCode.QUOTA,
    errors.ProviderUnavailableError("control plane"): ExitCode.UNAVAILABLE,
    errors.UnreadableFileError("manifest", "x"): ExitCode.FAILED,
    errors.ErasureIncompleteError(("control.memories",)): ExitCode.UNAVAILABLE,
    errors.ErasureRequestError("stale_preview"): ExitCode.FAILED,
    errors.LegalHoldError("01890000-0000-7000-8000-000000000000"): ExitCode.DENIED,
}


def test_every_error_of_the_tree_has_an_example_here() -> None:
    assert {type(error) for error in EXAMPLES} >= {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LuminescentError) and kind is not LuminescentError
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_ends_with_its_documented_code(error: LuminescentError) -> None:
    assert exit_code(error) is EXAMPLES[error]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_the_advice_is_one_line(error: LuminescentError) -> None:
    assert "\n" not in (next_step(error) or "")


def test_the_documentation_lists_exactly_these_codes() -> None:
    text = (Path(__file__).parents[4] / "docs" / "cli.md").read_text("utf-8")
    section = text.partition("## Exit codes")[2].partition("\n## ")[0]
    listed = {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert listed == {*ExitCode, 129, 130, 143}
