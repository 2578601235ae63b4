"""The PostgreSQL that an installation stands on, whoever runs it."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import URL


class Server(Protocol):
    """A use of a server, until it is closed. `EmbeddedPostgres` and `ExternalPostgres` are the two there are."""

    def url(self, role: str, database: str) -> URL:
        """Where and as whom to connect; may hold a password, which its `repr` hides.

        Args:
            role: A role of `cloud.storage.roles`.
            database: A database of `cloud.storage.roles` that the role may connect to.

        Raises:
            ConfigurationError: There is no such role, or it may not connect to that database.
        """
        ...

    def pid(self) -> int | None:
        """Process id of the server, if it is ours and runs here."""
        ...

    def recover(self, within_s: float) -> None:
        """The server takes connections again after one had failed.

        Args:
            within_s: Seconds to wait for that at most.

        Raises:
            ProviderUnavailableError: It does not yet.
        """
        ...

    def close(self) -> None:
        """This process no longer uses it. Idempotent."""
        ...
