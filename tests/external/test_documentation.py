"""The steps of docs/operations.md, as they stand there, lead from an empty server to an installation that works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.external import SUPERUSER_PASSWORD, external_server
from tests.support.homes import temporary_home
from tests.support.nursery import ROOT
from tests.support.typed import environment


def steps() -> str:
    """The commands of the section, in order."""
    text = (ROOT / "docs/operations.md").read_text()
    section = text.split("### Step by step\n")[1].split("\n### ")[0]
    return "\n".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))


def test_the_steps_lead_to_an_installation_that_works(tmp_path: Path) -> None:
    with external_server(with_roles=False) as server, temporary_home() as home:
        command = f'luminescent-cloud() {{ {sys.executable} -m cloud --home {home} "$@"; }}\n'
        script = steps()
        assert script.count("db.example.com:5432") == 2
        # Only places differ: the superuser goes in without TLS here, the service through the door.
        script = (
            script.replace("db.example.com:5432", f"127.0.0.1:{server.tls_port}")
            .replace("-h db.example.com -p 5432", f"-h 127.0.0.1 -p {server.port}")
            .replace("/etc/ssl/postgres-ca.pem", str(server.authority.certificate))
            .replace("infra/postgres/roles.sql", str(ROOT / "infra/postgres/roles.sql"))
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command + script],
            cwd=tmp_path,
            env=environment()
            | {
                "PATH": f"{server.binaries}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PGPASSWORD": SUPERUSER_PASSWORD,
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 warnings, 0 problems, 0 skipped" in done.stdout
        assert "Tenant acme is on plan free." in done.stdout
        assert {path.name for path in tmp_path.iterdir()} == {"roles.json", "owner.json"}
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
