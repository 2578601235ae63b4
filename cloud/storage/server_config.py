"""What the embedded PostgreSQL is told: who may log in, what it logs, what it keeps.

The three files are written anew at every start, lie outside the data directory and belong to the service's account,
so that nothing that reaches the server can change them for the next start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from cloud.storage.roles import DATABASE_OWNERS, ROLE_DATABASES

SUPERUSER: Final = "postgres"
_IDENT_MAP: Final = "luminescent"

_SETTINGS: Final[Mapping[str, str]] = {
    # Reachable through one directory that others cannot enter, and through nothing else.
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    # An acknowledged write survives the power cut.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # A recycled segment keeps erased bytes through many rounds; a removed one does not. No standby or slot may hold
    # segments back, and none may read them.
    "wal_recycle": "off",
    "max_wal_senders": "0",
    "max_replication_slots": "0",
    "max_logical_replication_workers": "0",
    # No personal data in the log: no statement, no parameter, no DETAIL line (those quote keys), and no ERROR at all
    # (its text quotes the value it could not parse). FATAL, PANIC and LOG remain.
    "log_statement": "none",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Meant for two cores and small hosts.
    # Eight processes with every pool of theirs full: each holds up to 32 connections.
    "max_connections": "300",
    "shared_buffers": "128MB",
    "effective_cache_size": "512MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "512MB",
    "random_page_cost": "1.1",
    "jit": "off",
    # Parallel workers share memory in /dev/shm, of which containers have 64 MB; queries here are short anyway.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    # The locks of a killed process go with it even while its statement still runs.
    "client_connection_check_interval": "1s",
    "timezone": "UTC",
}


def server_settings(*, socket: Path, hba: Path, ident: Path, cluster_name: str) -> str:
    """`postgresql.conf`, whole: nothing else is read but what an `ALTER SYSTEM` left.

    Args:
        socket: Directory of the Unix socket.
        hba: The file of `client_rules`.
        ident: The file of `account_map`.
        cluster_name: Shown in the titles of the server's processes, which are recognised by it.
    """
    settings = {
        **_SETTINGS,
        "unix_socket_directories": str(socket),
        "hba_file": str(hba),
        "ident_file": str(ident),
        "cluster_name": cluster_name,
    }
    return "".join(f"{name} = '{value}'\n" for name, value in settings.items())


def client_rules() -> str:
    """`pg_hba.conf`: the superuser by operating-system account, each role by password and only where it belongs.

    What matches no line is refused.
    """
    lines = [f"local all {SUPERUSER} peer map={_IDENT_MAP}"]
    for database in DATABASE_OWNERS:
        roles = ",".join(role for role, databases in ROLE_DATABASES.items() if database in databases)
        lines.append(f"local {database} {roles} scram-sha-256")
    return "\n".join(lines) + "\n"


def account_map(accounts: Iterable[str]) -> str:
    """`pg_ident.conf`: the operating-system accounts that may be the superuser."""
    return "".join(f'{_IDENT_MAP} "{account}" {SUPERUSER}\n' for account in sorted(set(accounts)))
