"""The record of who did what."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol, runtime_checkable

AUDIT_LOGGER_VERSION = "1.2.0"
"""Semantic version of `AuditLogger`; 1.1 added the two methods on personal data, 1.2 `log`."""


@runtime_checkable
class AuditLogger(Protocol):
    """Keeps a record of operations that outlives them.

    A method that returns has recorded the event; one that cannot record it raises, and the operation it belongs to
    must then fail. Records hold counts and ids, never content.
    """

    def log_event(
        self,
        event_type: str,
        actor: str,
        resource: str,
        action: str,
        outcome: str,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Record an operation.

        Args:
            event_type: Its kind, such as `data_access`.
            actor: Who acted.
            resource: What was acted upon, such as `memory:<id>`.
            action: What was done, such as `read` or `delete`.
            outcome: `success`, `failure` or `denied`.
            details: Further facts.
        """
        ...

    def log_security_event(
        self, event_type: str, severity: str, message: str, details: dict[str, Any] | None = None
    ) -> None:
        """Record something that bears on security.

        Args:
            event_type: Its kind, such as `auth_failure`.
            severity: `info`, `warning` or `critical`.
            message: What happened, for people.
            details: Further facts.
        """
        ...

    def log_gdpr_deletion(
        self, user_id: str, workspace_id: str, items_deleted: dict[str, int], timestamp: datetime
    ) -> None:
        """Record that a person's data was erased.

        Args:
            user_id: The person.
            workspace_id: The tenant.
            items_deleted: How many items of each kind.
            timestamp: When.

        Source:
            GDPR Art. 17; Art. 5(2).
        """
        ...

    def log_gdpr_export(self, user_id: str, workspace_id: str, total_items: int, timestamp: datetime) -> None:
        """Record that a person's data was handed over.

        Args:
            user_id: The person.
            workspace_id: The tenant.
            total_items: How many items.
            timestamp: When.

        Source:
            GDPR Art. 15, Art. 20.
        """
        ...

    async def log(self, event: dict[str, Any]) -> None:
        """Record an operation given as one object.

        Args:
            event: At least `operation`, such as `memory.store`; as a rule `tenant_id` and `user_id`.
        """
        ...
