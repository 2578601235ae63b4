"""Builds what establishes who is calling: API keys, an issuer's tokens, and the count of those who are nobody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloud.kernel.clock import system_clock
from cloud.kernel.errors import ConfigurationError
from cloud.kernel.scope import Role
from cloud.keys.ports import Keyring
from cloud.settings import CloudSettings
from cloud.storage.engine import ControlEngine
from cloud.tenancy.fetching import UrlKeySet
from cloud.tenancy.identity import IdentityResolver
from cloud.tenancy.jwt import TokenPolicy
from cloud.tenancy.key_sets import FileTokenKeys, RemoteTokenKeys
from cloud.tenancy.key_use import KeyUse
from cloud.tenancy.ports import TokenKeys
from cloud.tenancy.postgres import PostgresApiKeyLookup, PostgresKeyUse
from cloud.tenancy.postgres_refusals import PostgresRefusals
from cloud.tenancy.postgres_tokens import PostgresTokenRegister
from cloud.tenancy.refusals import Refusals
from cloud.tenancy.tokens import Tokens

_NEEDED: Final = ("jwt_issuer", "jwt_audience")
_OPTIONAL: Final = ("jwt_jwks_file", "jwt_jwks_url", "jwt_jwks_ca_file")


@dataclass(frozen=True, slots=True)
class IdentityParts:
    """What establishes who is calling.

    Attributes:
        resolver: Puts the sources together.
        use: When API keys were last used.
        refusals: Counts who is nobody.
        tokens: Checks tokens, if the installation accepts any.
    """

    resolver: IdentityResolver
    use: KeyUse
    refusals: Refusals
    tokens: Tokens | None


def build_identity(
    settings: CloudSettings,
    keyring: Keyring,
    *,
    app: ControlEngine,
    worker: ControlEngine,
    keys: ControlEngine,
    on_close: Callable[[Callable[[], None]], object],
) -> IdentityParts:
    """The parts that `settings` ask for.

    Args:
        settings: How the installation is run.
        keyring: The people's keys.
        app: Engine of the request path.
        worker: Engine of the worker.
        keys: Engine that looks API keys up.
        on_close: Takes what has to be done when the installation is closed.

    Raises:
        ConfigurationError: Settings for tokens do not go together, or cannot be used.
    """
    tokens = _tokens(settings, keyring, app)
    use = KeyUse(PostgresKeyUse(keys))
    on_close(use.close)
    refusals = Refusals(
        PostgresRefusals(app, worker),
        keyring,
        system_clock,
        each=settings.refusals_recorded_each,
        sources=settings.refusal_sources,
    )
    resolver = IdentityResolver(
        PostgresApiKeyLookup(keys),
        keyring,
        system_clock,
        trusted_gateway=settings.trusted_gateway,
        default_tenant=settings.default_tenant,
        tokens=tokens,
        use=use,
        refusals=refusals,
    )
    return IdentityParts(resolver, use, refusals, tokens)


def _tokens(settings: CloudSettings, keyring: Keyring, app: ControlEngine) -> Tokens | None:
    if settings.jwt_issuer is None or settings.jwt_audience is None:
        given = [name for name in (*_NEEDED, *_OPTIONAL) if getattr(settings, name) is not None]
        if given:
            # Half of the settings is a mistake: nobody should believe that tokens are checked.
            missing = ", ".join(name for name in _NEEDED if getattr(settings, name) is None)
            raise ConfigurationError(f"{given[0]} is set and {missing} is not; tokens need both of them, or none")
        return None
    policy = TokenPolicy(
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
        algorithms=frozenset(settings.jwt_algorithms),
        roles={name: Role(role) for name, role in settings.jwt_roles.items()},
        tenant_claim=settings.jwt_tenant_claim,
        user_claim=settings.jwt_user_claim,
        roles_claim=settings.jwt_roles_claim,
        leeway_s=settings.jwt_leeway_s,
        max_age_s=settings.jwt_max_age_s,
    )
    return Tokens(policy, _token_keys(settings, policy), PostgresTokenRegister(app), keyring, system_clock)


def _token_keys(settings: CloudSettings, policy: TokenPolicy) -> TokenKeys:
    file, url = settings.jwt_jwks_file, settings.jwt_jwks_url
    if file is not None and url is None:
        return FileTokenKeys(file, policy.algorithms)
    if url is None or file is not None:
        raise ConfigurationError("jwt_issuer needs the issuer's keys: jwt_jwks_file or jwt_jwks_url, one of the two")
    return RemoteTokenKeys(
        UrlKeySet(url, deadline_s=settings.jwt_jwks_deadline_s, ca_file=settings.jwt_jwks_ca_file),
        policy.algorithms,
        deadline_s=settings.jwt_jwks_deadline_s,
        refresh_s=settings.jwt_jwks_refresh_s,
        refetch_s=settings.jwt_jwks_refetch_s,
        max_age_s=settings.jwt_jwks_max_age_s,
    )
