"""Who may do what in the control database, as one table: a right that is added or lost turns this red."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
import sqlalchemy as sa

from cloud.storage.metadata import TENANT_TABLES
from cloud.storage.roles import OWNER_ROLE, ROLE_DATABASES

EVERYTHING = (
    "tenants", "plan_limits", "usage_counters", "usage_events", "usage_reservations", "subjects", "memories",
    "memory_changes", "intake", "idempotency_keys", "audit_events", "api_keys", "revoked_tokens", "refusals",
    "erasures", "placements", "placement_moves", "alembic_version", "keyring_state",
    "keyring_backups", "audit_pending", "audit_intents", "audit_leaves", "audit_archives", "audit_tiles",
    "audit_trees", "data_backups", "erasure_ledger", "legal_holds",
)  # fmt: skip
READ = {"SELECT"}
RIGHTS: dict[str, dict[str, set[str]]] = {
    "luminescent_app": {
        "alembic_version": READ,
        "plan_limits": READ,
        "tenants": READ,
        "placements": READ,
        "usage_counters": READ | {"INSERT"},
        "usage_events": READ | {"INSERT"},
        "usage_reservations": READ | {"INSERT"},
        "subjects": READ | {"INSERT"},
        "memories": READ | {"INSERT"},
        "memory_changes": READ | {"INSERT"},
        "intake": READ | {"INSERT"},
        "idempotency_keys": READ | {"INSERT"},
        "audit_events": READ | {"INSERT"},
        "audit_pending": {"INSERT"},
        "revoked_tokens": READ,
        "refusals": READ | {"INSERT", "UPDATE"},
    },
    "luminescent_worker": {
        "alembic_version": READ,
        "tenants": READ,
        "placements": READ,
        "placement_moves": READ,
        "usage_counters": READ,
        "usage_events": {"INSERT"},
        "usage_reservations": READ | {"DELETE"},
        "subjects": READ,
        "memories": READ,
        "intake": READ | {"DELETE"},
        "audit_events": READ | {"INSERT"},
        "audit_pending": READ | {"INSERT", "DELETE"},
        "audit_intents": READ | {"INSERT", "DELETE"},
        "audit_leaves": READ | {"INSERT"},
        "audit_tiles": READ | {"INSERT", "UPDATE"},
        "audit_trees": READ | {"INSERT", "UPDATE"},
        "refusals": READ | {"UPDATE", "DELETE"},
    },
    "luminescent_keys": {"api_keys": READ},
    "luminescent_maintenance": {
        "alembic_version": READ,
        "plan_limits": READ | {"INSERT", "UPDATE", "DELETE"},
        "api_keys": READ | {"INSERT", "UPDATE", "DELETE"},
        "erasures": READ | {"INSERT", "UPDATE", "DELETE"},
        "erasure_ledger": READ | {"INSERT", "UPDATE"},
        "data_backups": READ | {"INSERT", "UPDATE"},
        "legal_holds": READ | {"INSERT", "UPDATE"},
        "tenants": READ | {"INSERT", "UPDATE"},
        "placements": READ | {"INSERT", "UPDATE"},
        "placement_moves": READ | {"INSERT", "UPDATE"},
        "usage_counters": READ | {"INSERT", "UPDATE"},
        "subjects": READ | {"INSERT", "UPDATE", "DELETE"},
        "memories": READ | {"DELETE"},
        "memory_changes": READ | {"INSERT", "DELETE"},
        "intake": READ | {"DELETE"},
        "idempotency_keys": READ | {"DELETE"},
        "usage_events": READ | {"INSERT", "DELETE"},
        "usage_reservations": READ | {"DELETE"},
        "audit_events": READ | {"INSERT"},
        "audit_pending": READ | {"INSERT"},
        "audit_intents": READ,
        "audit_leaves": READ,
        "audit_archives": READ | {"INSERT"},
        "audit_tiles": READ,
        "audit_trees": READ,
        "revoked_tokens": READ | {"INSERT", "DELETE"},
        "refusals": READ,
        "keyring_state": READ | {"INSERT", "UPDATE"},
        "keyring_backups": READ | {"INSERT", "UPDATE"},
    },
    "luminescent_backup": dict.fromkeys(EVERYTHING, READ),
    "luminescent_pixeltable": {},
}
COLUMN_RIGHTS = {
    ("luminescent_app", "intake", "placement", "UPDATE"),
    ("luminescent_app", "intake", "revision", "UPDATE"),
    ("luminescent_app", "intake", "generation", "UPDATE"),
    ("luminescent_app", "intake", "memory_type", "UPDATE"),
    ("luminescent_app", "intake", "confidence", "UPDATE"),
    ("luminescent_app", "intake", "created_at", "UPDATE"),
    ("luminescent_app", "intake", "expires_at", "UPDATE"),
    ("luminescent_app", "intake", "envelope", "UPDATE"),
    ("luminescent_app", "memories", "revision", "UPDATE"),
    ("luminescent_app", "memories", "size_bytes", "UPDATE"),
    ("luminescent_app", "memories", "created_at", "UPDATE"),
    ("luminescent_app", "memories", "expires_at", "UPDATE"),
    ("luminescent_app", "memories", "superseded_by", "UPDATE"),
    ("luminescent_app", "memories", "superseded_at", "UPDATE"),
    ("luminescent_app", "memories", "last_accessed_at", "UPDATE"),
    ("luminescent_maintenance", "memories", "state", "UPDATE"),
    ("luminescent_maintenance", "memories", "purge_started_at", "UPDATE"),
    ("luminescent_maintenance", "memories", "deleted_at", "UPDATE"),
    ("luminescent_maintenance", "memories", "generation", "UPDATE"),
    ("luminescent_app", "memories", "deleted_at", "UPDATE"),
    ("luminescent_app", "memories", "generation", "UPDATE"),
    ("luminescent_app", "memories", "state", "UPDATE"),
    ("luminescent_app", "subjects", "generation", "UPDATE"),
    ("luminescent_app", "subjects", "memories", "UPDATE"),
    ("luminescent_app", "usage_counters", "used", "UPDATE"),
    ("luminescent_keys", "api_keys", "last_used_at", "UPDATE"),
    ("luminescent_maintenance", "intake", "placement", "UPDATE"),
    ("luminescent_maintenance", "audit_archives", "deleted_at", "UPDATE"),
    ("luminescent_app", "usage_reservations", "actual", "UPDATE"),
    ("luminescent_app", "usage_reservations", "settled_at", "UPDATE"),
    ("luminescent_app", "usage_reservations", "state", "UPDATE"),
    ("luminescent_worker", "memories", "state", "UPDATE"),
    ("luminescent_worker", "subjects", "memories", "UPDATE"),
    ("luminescent_worker", "usage_counters", "used", "UPDATE"),
    ("luminescent_worker", "usage_reservations", "state", "UPDATE"),
}
"""Rights on single columns, beyond those on their tables."""
OWN_TENANT = "current_setting('luminescent.tenant'::text, true)"
TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


def rows(engine: sa.Engine, query: str, **parameters: object) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query), parameters)]


def test_the_table_below_speaks_of_every_role_and_every_table(migrated: sa.Engine) -> None:
    assert RIGHTS.keys() == ROLE_DATABASES.keys() - {OWNER_ROLE}
    tables = rows(
        migrated,
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relkind IN ('r', 'p') AND NOT relispartition",
    )
    assert {name for (name,) in tables} == set(EVERYTHING)


@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_has_the_rights_of_the_table_and_no_other(migrated: sa.Engine, role: str) -> None:
    found = rows(
        migrated,
        "SELECT t, p FROM unnest(CAST(:tables AS text[])) t, unnest(CAST(:privileges AS text[])) p"
        " WHERE has_table_privilege(:role, t, p) OR has_table_privilege(:role, t, p || ' WITH GRANT OPTION')",
        tables=list(EVERYTHING),
        privileges=list(TABLE_PRIVILEGES),
        role=role,
    )
    assert set(found) == {(table, right) for table, rights in RIGHTS[role].items() for right in rights}


def test_rights_on_columns_are_those_of_the_table(migrated: sa.Engine) -> None:
    found = rows(
        migrated,
        "SELECT grantee::regrole::text, attrelid::regclass::text, attname, privilege_type"
        " FROM pg_attribute, aclexplode(attacl) WHERE attrelid IN"
        " (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)",
    )
    assert set(found) == COLUMN_RIGHTS


def test_nobody_in_general_has_any_right(migrated: sa.Engine) -> None:
    anybody = rows(
        migrated,
        "SELECT relname, privilege_type FROM pg_class, aclexplode(relacl)"
        " WHERE relnamespace = 'public'::regnamespace AND grantee = 0"
        " UNION ALL SELECT nspname, privilege_type FROM pg_namespace, aclexplode(nspacl)"
        " WHERE nspname = 'public' AND grantee = 0"
        " UNION ALL SELECT datname, privilege_type FROM pg_database, aclexplode(datacl)"
        " WHERE datname = current_database() AND grantee = 0",
    )
    assert anybody == []


@pytest.mark.parametrize("role", RIGHTS)
def test_no_serving_role_can_make_anything(migrated: sa.Engine, role: str) -> None:
    ((schema, database, temporary),) = rows(
        migrated,
        "SELECT has_schema_privilege(:role, 'public', 'CREATE'),"
        " has_database_privilege(:role, current_database(), 'CREATE'),"
        " has_database_privilege(:role, current_database(), 'TEMPORARY')",
        role=role,
    )
    assert (schema, database, temporary) == (False, False, False)


def test_everything_belongs_to_the_owner(migrated: sa.Engine) -> None:
    owners = rows(
        migrated,
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    )
    assert owners == [(OWNER_ROLE,)]


PARTITIONS = "SELECT relname, relrowsecurity, relacl::text FROM pg_class WHERE relispartition AND relkind = 'r'"


def test_the_months_of_the_leaves_are_reached_through_the_table_alone(migrated: sa.Engine) -> None:
    found = rows(migrated, PARTITIONS)
    now = datetime.now(UTC)
    after = (now.replace(day=1) + timedelta(days=31)).replace(day=1)
    assert {name for name, _, _ in found} == {f"audit_leaves_{one:%Y_%m}" for one in (now, after)}
    assert {secured for _, secured, _ in found} == {True}
    policies = rows(
        migrated,
        "SELECT DISTINCT policyname, roles::text, cmd, qual FROM pg_policies WHERE tablename LIKE 'audit_leaves_%'",
    )
    assert policies == [("backup", "{luminescent_backup}", "SELECT", "true")], "a dump reads each of them"
    for role in RIGHTS:
        for name, _, _ in found:
            for right in TABLE_PRIVILEGES:
                query = "SELECT has_table_privilege(:role, :name, :right)"
                dumps = (role, right) == ("luminescent_backup", "SELECT")
                assert rows(migrated, query, role=role, name=name, right=right) == [(dumps,)]


AS_OWNER = {
    "lc_audit_now": {"luminescent_worker"},
    "lc_audit_remove": {"luminescent_maintenance"},
    "lc_audit_drop_month": {"luminescent_maintenance"},
}
"""Functions that run as the owner, and who may call them: they make and empty months, and decide for themselves."""


def test_functions_run_as_their_caller_below_row_level_security(migrated: sa.Engine) -> None:
    """One that ran as its owner would see every tenant's rows."""
    functions = rows(
        migrated,
        "SELECT proname, prosecdef FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
    )
    assert len(functions) > 5
    assert all(str(name).startswith("lc_") for name, _ in functions)
    assert {name for name, definer in functions if definer} == AS_OWNER.keys()


def test_what_runs_as_the_owner_has_a_fixed_search_path_and_few_callers(migrated: sa.Engine) -> None:
    found = rows(migrated, "SELECT oid::regprocedure::text, proname, proconfig FROM pg_proc WHERE prosecdef")
    for signature, name, config in found:
        assert "search_path=pg_catalog, public, pg_temp" in cast("list[str]", config)
        query = "SELECT has_function_privilege(:role, :signature, 'EXECUTE')"
        callers = {role for role in RIGHTS if rows(migrated, query, role=role, signature=signature) == [(True,)]}
        assert callers == AS_OWNER[str(name)]
    assert rows(migrated, "SELECT 1 FROM pg_proc, aclexplode(proacl) WHERE proname ~ '^lc_audit' AND grantee = 0") == []


def test_no_trigger_or_rule_acts_beside_the_functions(migrated: sa.Engine) -> None:
    assert rows(migrated, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal") == []
    assert rows(migrated, "SELECT rulename FROM pg_rules WHERE schemaname = 'public'") == []


def test_the_policies_are_these(migrated: sa.Engine) -> None:
    found = rows(
        migrated,
        "SELECT tablename, policyname, roles::text, cmd, permissive, qual, with_check FROM pg_policies",
    )
    expected: set[tuple[object, ...]] = set()
    for table in (table.name for table in TENANT_TABLES):
        key = "log_id" if table.startswith("audit_") else "tenant_id"
        # Also where a tenant is named: the system log is nobody's to read on the request path.
        own = f"(({key} = {OWN_TENANT}) AND ({key} <> '_system'::text))"
        expected |= {
            (table, "request_path", "{luminescent_app}", "ALL", "PERMISSIVE", own, None),
            (table, "maintenance", "{luminescent_maintenance}", "ALL", "PERMISSIVE", "true", None),
            (table, "backup", "{luminescent_backup}", "SELECT", "PERMISSIVE", "true", None),
        }
    expected |= {
        (table, "worker", "{luminescent_worker}", "ALL", "PERMISSIVE", "true", None)
        for table in (
            "tenants",
            "usage_counters",
            "usage_reservations",
            "subjects",
            "memories",
            "intake",
            "placement_moves",
            "audit_pending",
            "audit_intents",
            "audit_leaves",
            "audit_tiles",
            "audit_trees",
        )  # fmt: skip
    }
    expected |= {
        ("usage_events", "worker", "{luminescent_worker}", "INSERT", "PERMISSIVE", None, "true"),
        ("audit_events", "worker", "{luminescent_worker}", "SELECT", "PERMISSIVE", "true", None),
        (
            "audit_pending",
            "system_log",
            "{luminescent_app}",
            "INSERT",
            "PERMISSIVE",
            None,
            "(log_id = '_system'::text)",
        ),
        ("audit_events", "system_log", "{luminescent_app}", "INSERT", "PERMISSIVE", None, "(log_id = '_system'::text)"),
        (
            "audit_events",
            "system_log_worker",
            "{luminescent_worker}",
            "INSERT",
            "PERMISSIVE",
            None,
            "(log_id = '_system'::text)",
        ),
        ("api_keys", "key_use", "{luminescent_keys}", "UPDATE", "PERMISSIVE", "true", "true"),
        ("api_keys", "key_lookup", "{luminescent_keys}", "SELECT", "PERMISSIVE", "true", None),
    }
    # Those of the months stand above.
    assert {policy for policy in found if not policy[0].startswith("audit_leaves_")} == expected
