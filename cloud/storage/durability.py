"""Refuses a server on which an acknowledged write could be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from cloud.kernel.errors import ConfigurationError

_REQUIRED: Final[Mapping[str, tuple[str, ...]]] = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply"),
}


def check_durability(connection: sa.Connection) -> None:
    """What this connection commits survives the death of any process and the power cut.

    Looks at the settings as they hold for this very connection: a role or a database can have its own
    `synchronous_commit`.

    Args:
        connection: A connection as the role whose writes matter, to the embedded or to an external server.

    Raises:
        ConfigurationError: A setting is off; the message names it.
    """
    rows = connection.execute(
        sa.text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)"), {"names": list(_REQUIRED)}
    )
    found = {str(name): str(setting) for name, setting in rows}
    for name, accepted in _REQUIRED.items():
        if found.get(name) not in accepted:
            raise ConfigurationError(
                f"PostgreSQL's {name} is {found.get(name)!r}; an acknowledged write could be lost: set it to 'on'"
            )
