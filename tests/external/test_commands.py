"""What an operator types about an external server: db upgrade, current, check, and doctor."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.external import ExternalServer, external_server
from tests.support.homes import temporary_home
from tests.support.typed import Finished, document, run


def typed(home: Path, environment: dict[str, str], *arguments: str) -> Finished:
    """The command, run to its end."""
    return run("--json", *arguments, home=home, variables=environment)


def faults(finished: Finished) -> dict[str, str]:
    """What is to be mended, by check."""
    return {f["check"]: f["what"] for f in document(finished)["findings"] if f["level"] == "problem"}


def actions(server: ExternalServer) -> list[tuple[str, str]]:
    """What the system log says, oldest first."""
    with server.admin("luminescent_control") as admin:
        rows = admin.execute(
            "SELECT event->>'action', event->>'outcome' FROM audit_events WHERE log_id = '_system'"
            " ORDER BY occurred_at, event_id"
        ).fetchall()
    return [(str(action), str(outcome)) for action, outcome in rows]


def test_from_an_empty_server_to_an_installation_that_holds() -> None:
    with external_server() as server, temporary_home() as home:
        serving, owner = server.environment(owner=False), server.environment()
        refused = typed(home, serving, "tenants", "create", "acme")
        assert refused.returncode == 1
        assert "luminescent-cloud db upgrade" in refused.stderr
        assert document(typed(home, serving, "db", "current")) == {
            "revision": None,
            "wanted": document(typed(home, serving, "db", "current"))["wanted"],
            "state": "empty",
        }
        before = typed(home, serving, "db", "check")
        assert (before.returncode, list(faults(before))) == (1, ["revision"])

        without = typed(home, serving, "db", "upgrade")
        assert without.returncode == 1
        assert "'luminescent_owner'" in without.stderr
        assert "role_passwords_file" in without.stderr
        upgraded = document(typed(home, owner, "db", "upgrade"))
        assert (upgraded["from"], upgraded["changed"]) == (None, True)
        again = document(typed(home, owner, "db", "upgrade"))
        assert (again["from"], again["to"], again["changed"]) == (upgraded["to"], upgraded["to"], False)

        assert typed(home, serving, "tenants", "create", "acme").returncode == 0
        assert document(typed(home, serving, "db", "current"))["state"] == "current"
        checked = typed(home, serving, "db", "check")
        assert (checked.returncode, document(checked)["holds"], faults(checked)) == (0, True, {})
        encrypted = [f["what"] for f in document(checked)["findings"] if f["check"] == "tls"]
        assert len(encrypted) == 2
        assert all("encrypted, the server's certificate is checked" in what for what in encrypted)
        whole = typed(home, serving, "doctor")
        assert (whole.returncode, faults(whole)) == (0, {}), whole.stdout
        # Nobody has made one yet.
        assert {f["check"] for f in document(whole)["findings"] if f["level"] != "ok"} == {"backups"}

        assert actions(server) == [
            ("db.upgrade", "allowed"),
            ("db.upgrade", "allowed"),
            ("db.check", "allowed"),
            ("db.check", "allowed"),
            ("doctor.run", "allowed"),
        ]
        assert not (home / "postgres").exists(), "an embedded server was made beside the external one"

        with server.admin("luminescent_control") as admin:
            admin.execute("UPDATE alembic_version SET version_num = '9999'")
        newer = typed(home, owner, "db", "upgrade")
        assert newer.returncode == 1
        assert "9999, which this version does not know" in newer.stderr
        assert actions(server)[-1] == ("db.upgrade", "failed")
        assert list(faults(typed(home, serving, "doctor"))) == ["revision"]


@pytest.mark.parametrize("verb", [("db", "check"), ("doctor",)])
def test_a_server_that_is_away_is_one_fault_and_no_traceback(
    server: ExternalServer, fresh_home: Path, verb: tuple[str, ...]
) -> None:
    (fresh_home / "secrets").mkdir(mode=0o700)
    server.stop()
    try:
        away = typed(fresh_home, server.environment(owner=False), *verb)
    finally:
        server.start()
    assert away.returncode == 1
    assert "Traceback" not in away.stderr
    found = document(away)["findings"]
    problems = [f["check"] for f in found if f["level"] == "problem"]
    # Each role's connection, and where the whole is looked at, what is missing in this home.
    assert problems == ["connections"] * 5 + (["root key"] if verb == ("doctor",) else [])
    assert {f["check"] for f in found if f["level"] == "skipped"} >= {
        "tls",
        "server",
        "revision",
        "durability",
        "clock",
    }
