"""Laws of scopes and predicates: nobody has one whom tenancy did not admit, and none is ever widened."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

import cloud
from cloud.kernel.errors import TenantIsolationError
from cloud.kernel.scope import (
    Principal,
    PrincipalKind,
    Role,
    TenantPredicate,
    TenantScope,
    grant_scope,
)

PRINCIPAL = Principal(PrincipalKind.SUBJECT, frozenset({Role.MEMBER}), user_id="alice@example.com")
SOURCES = Path(cloud.__file__).parent
MAY_GRANT = {"tenancy/admission.py", "tenancy/system.py"}


def scope(tenant_id: str = "acme") -> TenantScope:
    return grant_scope(tenant_id=tenant_id, principal=PRINCIPAL, request_id="r-1")


@pytest.mark.parametrize("grant", [None, True, object(), "grant", PRINCIPAL])
def test_a_scope_without_tenancys_grant_does_not_exist(grant: object) -> None:
    with pytest.raises(TenantIsolationError):
        TenantScope(grant, tenant_id="acme", principal=PRINCIPAL, request_id="r-1", trace_id=None)


@pytest.mark.parametrize("tenant_id", ["", "_system", "ACME", "acme/../x", "acme\n"])
def test_a_scope_names_a_tenant_that_can_exist(tenant_id: str) -> None:
    with pytest.raises(TenantIsolationError):
        scope(tenant_id)


def test_only_tenancy_grants_scopes() -> None:
    callers = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
            if name in ("grant_scope", "_GRANT"):
                callers.add(path.relative_to(SOURCES).as_posix())
    assert callers - {"kernel/scope.py"} == MAY_GRANT


@pytest.mark.parametrize("name", ["tenant_id", "principal", "request_id", "trace_id", "another"])
def test_a_scope_cannot_be_changed(name: str) -> None:
    admitted = scope()
    with pytest.raises(AttributeError):
        setattr(admitted, name, "globex")
    with pytest.raises(AttributeError):
        delattr(admitted, name)
    assert admitted.tenant_id == "acme"


@pytest.mark.parametrize("name", ["tenant_id", "scope", "another"])
def test_a_predicate_cannot_be_changed(name: str) -> None:
    predicate = TenantPredicate(scope(), {"tenant_id": {"$eq": "acme"}})
    with pytest.raises(AttributeError):
        setattr(predicate, name, "globex")
    with pytest.raises(AttributeError):
        delattr(predicate, name)
    assert predicate.tenant_id == "acme"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_no_copy_of_a_scope_is_wider_than_the_scope(copied: object) -> None:
    assert callable(copied)
    try:
        other = copied(scope())
    except (TypeError, AttributeError, pickle.PicklingError):
        return
    assert other.tenant_id == "acme"


def test_the_filter_of_the_scopes_own_tenant_opens_that_tenant() -> None:
    admitted = scope()
    predicate = TenantPredicate(admitted, {"tenant_id": {"$eq": "acme"}})
    assert (predicate.tenant_id, predicate.scope) == ("acme", admitted)


@pytest.mark.parametrize(
    ("tenant_filter", "reason"),
    [
        (None, "empty"),
        ({}, "empty"),
        ("", "empty"),
        ([], "empty"),
        ("acme", "malformed"),
        ([{"tenant_id": {"$eq": "acme"}}], "malformed"),
        ({"user_id": {"$eq": "alice"}}, "missing_tenant"),
        ({"$or": [{"tenant_id": {"$eq": "acme"}}, {}]}, "missing_tenant"),
        ({"tenant_id": "acme"}, "malformed"),
        ({"tenant_id": None}, "malformed"),
        ({"tenant_id": {}}, "malformed"),
        ({"tenant_id": {"$ne": "globex"}}, "malformed"),
        ({"tenant_id": {"$in": ["acme"]}}, "malformed"),
        ({"tenant_id": {"$eq": "acme", "$ne": "x"}}, "malformed"),
        ({"tenant_id": {"$eq": "acme"}, "$or": [{}]}, "malformed"),
        ({"tenant_id": {"$eq": "acme"}, "user_id": {"$eq": "alice"}}, "malformed"),
        ({"tenant_id": {"$eq": "globex"}}, "foreign_tenant"),
        ({"tenant_id": {"$eq": "acme2"}}, "foreign_tenant"),
        ({"tenant_id": {"$eq": "acme%"}}, "foreign_tenant"),
        ({"tenant_id": {"$eq": "ACME"}}, "foreign_tenant"),
        ({"tenant_id": {"$eq": ["acme"]}}, "foreign_tenant"),
        ({"tenant_id": {"$eq": None}}, "missing_tenant"),
        ({"tenant_id": {"$eq": ""}}, "missing_tenant"),
    ],
)
def test_every_other_filter_opens_nothing(tenant_filter: object, reason: str) -> None:
    with pytest.raises(TenantIsolationError) as refused:
        TenantPredicate(scope(), tenant_filter)
    assert refused.value.reason == reason


@pytest.mark.parametrize("forged", [None, "acme", object(), {"tenant_id": "acme"}])
def test_a_filter_without_a_scope_opens_nothing(forged: object) -> None:
    with pytest.raises(TenantIsolationError):
        TenantPredicate(forged, {"tenant_id": {"$eq": "acme"}})  # type: ignore[arg-type]


def test_no_text_of_a_scope_or_principal_shows_the_person() -> None:
    for value in (PRINCIPAL, scope()):
        assert "alice" not in f"{value!r}{value!s}{value}"
