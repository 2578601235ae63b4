"""Settings of tokens: what goes together, what can never be set, and that half of them is a mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cloud import CloudRuntime, CloudSettings
from cloud.kernel.errors import ConfigurationError
from cloud.startup.identity import IdentityParts, build_identity
from tests.support.issuer import AUDIENCE, ISSUER, SigningKey, key_set, publishing

ISSUED = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(SigningKey("ES256", "e")))
    return path


def built(runtime: CloudRuntime, **given: Any) -> IdentityParts:
    engines = runtime._installation.engines
    return build_identity(
        CloudSettings(**given),
        runtime.pixeltable_config.keyring,
        app=engines.app,
        worker=engines.worker,
        keys=engines.keys,
        on_close=lambda close: None,
    )


def test_no_token_is_accepted_unless_an_issuer_is_named(runtime: CloudRuntime, keys: Path) -> None:
    assert built(runtime).tokens is None
    tokens = built(runtime, **ISSUED, jwt_jwks_file=keys).tokens
    assert tokens is not None
    assert (tokens.access().issuer, len(tokens.access().roles)) == (ISSUER, 4)


def test_keys_at_a_url_can_be_fetched_before_anybody_calls(runtime: CloudRuntime) -> None:
    with publishing(key_set(SigningKey("ES256", "e"))) as publisher:
        tokens = built(runtime, **ISSUED, jwt_jwks_url=publisher.url).tokens
        assert tokens is not None
        tokens.warm()
        assert tokens._keys.find("e", "ES256") is not None
        assert publisher.asked == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"jwt_issuer": ISSUER}, "jwt_audience"),
        ({"jwt_audience": AUDIENCE}, "jwt_issuer"),
        ({"jwt_jwks_url": "https://issuer.example/keys"}, "jwt_issuer"),
        ({"jwt_jwks_file": "keys.json"}, "jwt_issuer"),
        (ISSUED, "jwt_jwks_file or jwt_jwks_url"),
        (ISSUED | {"jwt_jwks_file": "FILE", "jwt_jwks_url": "https://issuer.example/keys"}, "one of the two"),
        (ISSUED | {"jwt_jwks_file": "/nonexistent"}, "jwt_jwks_file"),
        (ISSUED | {"jwt_jwks_url": "http://issuer.example/keys"}, "https"),
    ],
)
def test_settings_that_do_not_go_together_refuse_the_start(
    runtime: CloudRuntime, keys: Path, given: dict[str, str], named: str
) -> None:
    filled = {name: str(keys) if value == "FILE" else value for name, value in given.items()}
    with pytest.raises(ConfigurationError, match=named):
        built(runtime, **filled)


@pytest.mark.parametrize(
    "given",
    [
        {"jwt_algorithms": ["none"]},
        {"jwt_algorithms": ["RS256", "HS256"]},
        {"jwt_algorithms": "RS256,none"},
        {"jwt_algorithms": []},
        {"jwt_algorithms": ""},
        {"jwt_roles": {"root": "operator"}},
        {"jwt_roles": {"root": "owner"}},
        {"jwt_leeway_s": 3600},
        {"jwt_jwks_refetch_s": 0},
        {"jwt_issuer": ""},
        {"refusals_recorded_each": 0},
        {"refusal_sources": 0},
    ],
)
def test_what_would_open_too_much_cannot_be_set(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CloudSettings(**given)


@pytest.mark.parametrize("text", ["RS256,ES256", " RS256 , ES256 ", '["RS256", "ES256"]'])
def test_algorithms_may_stand_in_a_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LUMINESCENT_CLOUD_JWT_ALGORITHMS", text)
    monkeypatch.setenv("LUMINESCENT_CLOUD_JWT_ROLES", '{"dpo": "tenant_admin"}')
    settings = CloudSettings()
    assert settings.jwt_algorithms == ("RS256", "ES256")
    assert settings.jwt_roles == {"dpo": "tenant_admin"}
