"""The rights of the people whose memories these are."""

from __future__ import annotations

import os
from typing import Protocol, runtime_checkable

GDPR_SERVICE_VERSION = "1.0.0"
"""Semantic version of `GDPRService`."""


@runtime_checkable
class GDPRService(Protocol):
    """Erases and exports everything that is kept of one person in one workspace.

    What the methods return belongs to the implementation: previews, certificates and bundles differ in what they
    can prove.
    """

    async def delete_user_data(
        self, user_id: str, workspace_id: str, *, confirmed: bool = False, reason: str | None = None
    ) -> object:
        """Erase the person, or say what would be erased.

        Args:
            user_id: The person.
            workspace_id: The tenant.
            confirmed: Without it nothing changes.
            reason: Why, for the record; such as the number of the person's request.

        Returns:
            Not confirmed: a preview. Confirmed: evidence of the erasure; when this returns, nothing of the person
            can be read any more.

        Source:
            GDPR Art. 17.
        """
        ...

    async def export_user_data(self, user_id: str, workspace_id: str, directory: str | os.PathLike[str]) -> object:
        """Write everything that is kept of the person to a directory, in a common machine-readable format.

        Args:
            user_id: The person.
            workspace_id: The tenant.
            directory: Where to write; made if absent.

        Returns:
            What was written.

        Source:
            GDPR Art. 15, Art. 20.
        """
        ...
