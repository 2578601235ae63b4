"""A managed server gives nobody a superuser: roles.sql makes what it can, and `db check` says what is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloud import CloudSettings
from cloud.kernel.findings import Level
from cloud.startup import upkeep
from tests.support.external import ExternalServer, external_server

ADMIN = "cloud_admin"


@pytest.fixture(scope="module")
def managed() -> Iterator[ExternalServer]:
    """A server on which the extension is installed, with an account that may make roles and databases."""
    with external_server(with_roles=False) as running:
        with running.admin("template1") as admin:
            admin.execute(f"CREATE ROLE {ADMIN} LOGIN CREATEROLE CREATEDB PASSWORD 'x'".encode())
        with running.admin() as admin:
            admin.execute(b"CREATE DATABASE luminescent_data")
        with running.admin("luminescent_data") as admin:
            admin.execute(b"CREATE EXTENSION vector")
        with running.admin() as admin:
            # A provider lets its customers install what it allows; here that is done beforehand.
            admin.execute(f"ALTER DATABASE luminescent_data OWNER TO {ADMIN}".encode())
        yield running


def test_the_script_serves_there_too_and_may_be_run_again(managed: ExternalServer) -> None:
    managed.run_roles_sql(user=ADMIN, user_password="x", managed="1")
    with managed.admin() as admin:
        admin.execute(b"ALTER DATABASE luminescent_data OWNER TO luminescent_pixeltable")
    managed.run_roles_sql(user=ADMIN, user_password="x", managed="1")
    settings = CloudSettings(**managed.settings())  # type: ignore[arg-type]
    upkeep.upgrade(settings)
    found = upkeep.check_databases(settings)
    assert [(f.check, f.level) for f in found if f.level is not Level.OK] == [("maintenance rights", Level.WARNING)]
