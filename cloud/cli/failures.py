"""How a command ends: exit codes, and for each error one line that says what to do next.

The codes are a contract with scripts; `docs/cli.md` lists them.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Final

from cloud.kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    ErasureIncompleteError,
    ErasureRequestError,
    InvalidFilterError,
    InvalidMemoryError,
    LegalHoldError,
    LuminescentError,
    MemoryNotFoundError,
    OperationInProgressError,
    PermissionDeniedError,
    ProviderUnavailableError,
    QuotaExceededError,
    RevisionConflictError,
    TenantIsolationError,
    TokenKeysUnavailableError,
    UnknownTenantError,
)


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ORIGIN_NOT_ESTABLISHED = 3
    DENIED = 4
    QUOTA = 5
    UNAVAILABLE = 6


_DENIED: Final = (AuthenticationError, LegalHoldError, PermissionDeniedError, TenantIsolationError)
_USAGE: Final = (InvalidFilterError, InvalidMemoryError)


def exit_code(error: LuminescentError) -> ExitCode:
    """The exit code that `error` ends a command with."""
    if isinstance(error, _DENIED) and not error.retryable:
        return ExitCode.DENIED
    if isinstance(error, QuotaExceededError):
        return ExitCode.QUOTA
    if isinstance(error, _USAGE):
        return ExitCode.USAGE
    return ExitCode.UNAVAILABLE if error.retryable else ExitCode.FAILED


def next_step(error: LuminescentError) -> str | None:
    """What whoever typed the command can do about `error`; `None` where the message says it already."""
    match error:
        case PermissionDeniedError(reason="tenant_suspended"):
            return "an operator can serve the tenant again: luminescent-cloud tenants resume TENANT"
        case PermissionDeniedError(reason="role_missing"):
            return "use an API key with a role that may do this; docs/cli.md says which"
        case PermissionDeniedError():
            return "use an API key that may act for this person in this tenant"
        case AuthenticationError(reason="unknown_tenant") | UnknownTenantError():
            return "luminescent-cloud tenants list shows which there are"
        case AuthenticationError(reason="no_key"):
            return "an operator makes one: luminescent-cloud api-keys create --tenant TENANT --role ROLE --out FILE"
        case TokenKeysUnavailableError():
            return "run the same command again; docs/identity.md says what is tried meanwhile"
        case AuthenticationError(reason=reason) if reason.startswith("token_"):
            return "ask the issuer for a new token; docs/identity.md lists what each code means"
        case AuthenticationError(reason="address_unknown" | "address_not_allowed"):
            return "this key opens from some addresses alone, and this command comes from 127.0.0.1"
        case AuthenticationError():
            return "luminescent-cloud api-keys list --tenant TENANT shows which keys work"
        case TenantIsolationError():
            return "leave out --tenant, or name the tenant that the API key belongs to"
        case QuotaExceededError(resets_at=datetime()):
            return (
                "wait for the new month, or give the tenant more room; luminescent-cloud usage show says how it stands"
            )
        case QuotaExceededError():
            return "delete memories that are no longer needed, or give the tenant more room"
        case MemoryNotFoundError():
            return "luminescent-cloud memory list --user USER shows which there are"
        case RevisionConflictError():
            return "luminescent-cloud memory history MEMORY shows who changed it"
        case ErasureRequestError(reason="stale_preview"):
            return "luminescent-cloud gdpr preview --request REQUEST shows what is there now"
        case ErasureRequestError():
            return "luminescent-cloud gdpr list shows requests and their states, gdpr holds what keeps them"
        case LegalHoldError():
            return "luminescent-cloud gdpr holds shows what keeps it; gdpr release ends a hold"
        case ErasureIncompleteError():
            return "run the same command again: it continues where it stopped"
        case ProviderUnavailableError():
            return "run the same command again; if it goes on, look into the logs in the home directory"
        case InvalidFilterError():
            return "docs/memory/providers.md describes filters; add --help for the options"
        case OperationInProgressError():
            return "wait for it, then look: tenants list, embeddings status"
        case ConfigurationError() | LuminescentError():
            return None
