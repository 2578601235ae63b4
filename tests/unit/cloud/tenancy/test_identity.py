"""Who is calling: every row of the resolver's table, and every conflict between two rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from cloud.kernel.context import request_context
from cloud.kernel.errors import AuthenticationError, TenantIsolationError
from cloud.kernel.scope import Principal, PrincipalKind, Role
from cloud.keys.inmemory import InMemoryKeyring
from cloud.keys.model import Place
from cloud.keys.sealing import seal
from cloud.tenancy.identity import IdentityResolver, local_operator
from cloud.tenancy.model import ApiKeyRecord, Identity, new_api_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SERVICE = Principal(PrincipalKind.SERVICE, frozenset({Role.SERVICE}))
BOB = Principal(PrincipalKind.SUBJECT, frozenset({Role.MEMBER}), user_id="bob")


class Keys:
    """API keys by id, as the look-up finds them."""

    def __init__(self) -> None:
        self.records: dict[str, ApiKeyRecord] = {}

    def find(self, key_id: str) -> ApiKeyRecord | None:
        return self.records.get(key_id)


class House:
    """A resolver with its keys and its keyring, and keys that open them."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.keyring = InMemoryKeyring()
        self.keyring.create_tenant("acme")

    def resolver(self, *, trusted_gateway: bool = False, default_tenant: str | None = None) -> IdentityResolver:
        return IdentityResolver(
            self.keys, self.keyring, lambda: NOW, trusted_gateway=trusted_gateway, default_tenant=default_tenant
        )

    def key(
        self,
        tenant_id: str = "acme",
        *,
        roles: frozenset[Role] = frozenset({Role.SERVICE}),
        user_id: str | None = None,
        expires_at: datetime | None = None,
        revoked_at: datetime | None = None,
    ) -> tuple[str, Principal]:
        """The text of a new key, and the principal it stands for."""
        key_id, text, secret_hash = new_api_key()
        subject_id = sealed = None
        if user_id is not None:
            person = self.keyring.resolve_subject(tenant_id, user_id, create=True)
            assert person is not None
            subject_id = person.subject_id
            sealed = seal(person.key, user_id.encode(), place=Place(tenant_id, subject_id, key_id, "api_key_user"))
        self.keys.records[key_id] = ApiKeyRecord(
            key_id, tenant_id, secret_hash, roles, subject_id, sealed, expires_at, revoked_at
        )
        return text, Principal(PrincipalKind.API_KEY, roles, user_id=user_id, name=key_id)


@pytest.fixture
def house() -> House:
    return House()


def test_nothing_names_nobody(house: House) -> None:
    assert house.resolver().resolve({}) is None
    with request_context(request_id="r-1"):
        assert house.resolver().resolve({"idempotency_key": "k", "user_id": "alice"}) is None


@pytest.mark.parametrize(
    ("roles", "user_id", "principal"),
    [
        ({"service"}, None, SERVICE),
        ({"member"}, "bob", BOB),
        (
            {"service", "auditor"},
            "bob",
            Principal(PrincipalKind.SUBJECT, frozenset({Role.SERVICE, Role.AUDITOR}), user_id="bob"),
        ),
        (set(), "bob", Principal(PrincipalKind.SUBJECT, frozenset(), user_id="bob")),
    ],
)
def test_the_ambient_context_is_what_the_host_established(
    house: House, roles: set[str], user_id: str | None, principal: Principal
) -> None:
    with request_context(tenant_id="acme", user_id=user_id, roles=roles):
        assert house.resolver().resolve({}) == Identity("acme", principal)


def test_an_unknown_role_is_no_role(house: House) -> None:
    with request_context(tenant_id="acme", roles={"service", "root"}), pytest.raises(AuthenticationError) as refused:
        house.resolver().resolve({})
    assert refused.value.reason == "unknown_role"


@pytest.mark.parametrize(
    ("context", "identity"),
    [
        ({"tenant_id": "acme"}, Identity("acme", SERVICE)),
        ({"tenant_id": "acme", "user_id": "bob"}, Identity("acme", BOB)),
        ({"tenant_id": "acme", "x-tenant-id": "acme"}, Identity("acme", SERVICE)),
    ],
)
def test_a_tenant_in_the_passed_context_is_trusted_like_the_code_that_passes_it(
    house: House, context: Mapping[str, object], identity: Identity
) -> None:
    assert house.resolver().resolve(context) == identity


def test_a_caller_without_a_tenant_stays_that_caller_in_the_tenant_named_elsewhere(house: House) -> None:
    """Naming a tenant beside an ambient member must not make a service of the member."""
    with request_context(user_id="bob", roles={"member"}):
        assert house.resolver().resolve({"tenant_id": "acme"}) == Identity("acme", BOB)
        assert house.resolver(default_tenant="acme").resolve({}) == Identity("acme", BOB)
        assert house.resolver(trusted_gateway=True).resolve({"x-tenant-id": "acme"}) == Identity("acme", BOB)
        assert house.resolver().resolve({}) == Identity(None, BOB)


@pytest.mark.parametrize("where", ["ambient", "passed", "both"])
def test_an_api_key_brings_its_own_tenant_roles_and_person(house: House, where: str) -> None:
    text, principal = house.key(roles=frozenset({Role.MEMBER}), user_id="bob")
    ambient = None if where == "passed" else f"Bearer {text}"
    passed = {} if where == "ambient" else {"authorization": text}
    with request_context(authorization=ambient):
        assert house.resolver().resolve(passed) == Identity("acme", principal)


def test_a_credential_says_more_than_what_a_caller_claims_beside_it(house: House) -> None:
    text, principal = house.key(roles=frozenset({Role.AUDITOR}))
    claims = {"authorization": text, "tenant_id": "acme", "user_id": "alice"}
    with request_context(tenant_id="acme", user_id="alice", roles={"tenant_admin"}):
        assert house.resolver().resolve(claims) == Identity("acme", principal)


@pytest.mark.parametrize("credential", ["", "nonsense", "Bearer ", "lc_1_2_3", 7, b"lc_a_b", ["lc_a_b"], "\ud800"])
def test_a_credential_that_is_none_is_refused_and_never_ignored(house: House, credential: object) -> None:
    with pytest.raises(AuthenticationError) as refused:
        house.resolver().resolve({"tenant_id": "acme", "authorization": credential})
    assert refused.value.reason == "malformed_credential"


def test_a_key_that_does_not_hold_is_refused_even_where_others_would_do(house: House) -> None:
    text, _ = house.key()
    known = text.split("_")[1]
    for credential, reason in (
        (f"lc_{'0' * 12}_{'0' * 64}", "invalid_key"),
        (f"lc_{known}_{'0' * 64}", "invalid_key"),
        (house.key(expires_at=NOW)[0], "expired_key"),
        (house.key(revoked_at=NOW)[0], "revoked_key"),
    ):
        with request_context(tenant_id="acme", roles={"service"}), pytest.raises(AuthenticationError) as refused:
            house.resolver().resolve({"authorization": credential})
        assert refused.value.reason == reason
        assert credential.split("_")[2] not in str(refused.value)


def test_the_key_of_an_erased_person_opens_nothing(house: House) -> None:
    text, _ = house.key(roles=frozenset({Role.MEMBER}), user_id="bob")
    person = house.keyring.resolve_subject("acme", "bob", create=False)
    assert person is not None
    house.keyring.destroy_subject("acme", person.subject_id)
    house.keyring.resolve_subject("acme", "bob", create=True)  # the same name, another subject
    with pytest.raises(AuthenticationError) as refused:
        house.resolver().resolve({"authorization": text})
    assert refused.value.reason == "person_erased"


def test_a_key_whose_sealed_person_was_copied_from_another_opens_nothing(house: House) -> None:
    bobs, _ = house.key(roles=frozenset({Role.MEMBER}), user_id="bob")
    alices, _ = house.key(roles=frozenset({Role.MEMBER}), user_id="alice")
    mine, theirs = (house.keys.records[text.split("_")[1]] for text in (bobs, alices))
    house.keys.records[mine.key_id] = ApiKeyRecord(
        mine.key_id,
        mine.tenant_id,
        mine.secret_hash,
        mine.roles,
        mine.subject_id,
        theirs.user_sealed,
        None,
        None,
    )
    with pytest.raises(AuthenticationError):
        house.resolver().resolve({"authorization": bobs})


def test_a_header_names_a_tenant_only_behind_a_trusted_gateway(house: House) -> None:
    with pytest.raises(AuthenticationError) as refused:
        house.resolver().resolve({"x-tenant-id": "acme"})
    assert refused.value.reason == "untrusted_header"
    gateway = house.resolver(trusted_gateway=True)
    assert gateway.resolve({"x-tenant-id": "acme"}) == Identity("acme", SERVICE)
    assert gateway.resolve({"x-tenant-id": "acme", "user_id": "bob"}) == Identity("acme", BOB)


def test_there_is_no_default_tenant_unless_the_deployment_names_one(house: House) -> None:
    resolver = house.resolver(default_tenant="acme")
    assert resolver.resolve({}) == Identity("acme", SERVICE)
    assert resolver.resolve({"user_id": "bob"}) == Identity("acme", BOB)
    assert resolver.resolve({"tenant_id": "globex"}) == Identity("globex", SERVICE)
    with pytest.raises(AuthenticationError):
        resolver.resolve({"x-tenant-id": "globex"})


@pytest.mark.parametrize("trusted_gateway", [False, True])
@pytest.mark.parametrize(
    ("ambient", "passed"),
    [
        ({"tenant_id": "acme"}, {"tenant_id": "globex"}),
        ({"tenant_id": "acme"}, {"tenant_id": "acme2"}),
        ({"tenant_id": "acme"}, {"x-tenant-id": "globex"}),
        ({"tenant_id": "acme"}, {"tenant_id": "acme", "x-tenant-id": "globex"}),
        ({}, {"tenant_id": "acme", "x-tenant-id": "globex"}),
        ({"tenant_id": "globex"}, {"authorization": "KEY"}),
        ({"authorization": "KEY"}, {"tenant_id": "globex"}),
        ({"authorization": "KEY"}, {"x-tenant-id": "globex"}),
        ({"tenant_id": "globex", "authorization": "KEY"}, {}),
        ({"authorization": "KEY"}, {"authorization": "OTHER"}),
    ],
)
def test_whatever_names_a_tenant_names_the_same_one(
    house: House, ambient: dict[str, str], passed: dict[str, str], trusted_gateway: bool
) -> None:
    keys = {"KEY": house.key()[0], "OTHER": house.key("globex")[0]}
    around = {name: keys.get(value, value) for name, value in ambient.items()}
    given = {name: keys.get(value, value) for name, value in passed.items()}
    with request_context(roles={"service"}, **around), pytest.raises(TenantIsolationError) as refused:  # type: ignore[arg-type]
        house.resolver(trusted_gateway=trusted_gateway, default_tenant="acme").resolve(given)
    assert refused.value.reason == "conflict"


@pytest.mark.parametrize("name", ["tenant_id", "user_id", "x-tenant-id"])
@pytest.mark.parametrize("value", ["", 7, b"acme", ["acme"], {"$eq": "acme"}, True])
def test_a_context_holds_texts_or_nothing(house: House, name: str, value: object) -> None:
    context = {"tenant_id": "acme"} | {name: value}
    with pytest.raises(AuthenticationError) as refused:
        house.resolver(trusted_gateway=True).resolve(context)
    assert refused.value.reason == "malformed_context"


def test_the_local_operator_administers_and_is_named_by_its_account() -> None:
    operator = local_operator()
    assert operator.name is not None
    assert operator.name.startswith("local-operator:")
    assert operator.roles == {Role.OPERATOR, Role.TENANT_ADMIN}
    with request_context(operator="local-operator:1000", roles={"operator"}):
        resolved = House().resolver().resolve({})
    assert resolved is not None
    assert (resolved.tenant_id, resolved.principal.name) == (None, "local-operator:1000")
    assert resolved.principal.kind is PrincipalKind.LOCAL_OPERATOR
