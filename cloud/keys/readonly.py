"""A keyring that is looked into and not changed, for trying a backup beside the service that uses the keyring."""

from __future__ import annotations

from datetime import datetime

from cloud.kernel.errors import ConfigurationError, KeyDestroyedError
from cloud.keys.model import SubjectKey
from cloud.keys.reports import Progress, Rotated, no_progress
from cloud.keys.sqlite import FileKeyring


class ReadOnlyKeyring(FileKeyring):
    """A `FileKeyring` that makes and destroys no key; what would have to is an error.

    A destruction that was cut off is left to the service: its key counts as absent, and nothing is written.
    """

    _finishes = False

    def resolve_subject(self, tenant_id: str, user_id: str, *, create: bool) -> SubjectKey | None:
        found = super().resolve_subject(tenant_id, user_id, create=False)
        if found is None and create:
            raise _refused("make a key")
        return found

    def create_tenant(self, tenant_id: str) -> None:
        """The tenant has a key already.

        Raises:
            KeyDestroyedError: It has none.
        """
        self.tenant_key(tenant_id)

    def destroy_subject(self, tenant_id: str, subject_id: str) -> bool:
        """The subject has no key any more.

        Raises:
            ConfigurationError: It has one.
        """
        if self.subject_key(tenant_id, subject_id) is not None:
            raise _refused("destroy a key")
        return False

    def drop_spares(self, tenant_id: str) -> int:
        raise _refused("destroy keys made ahead")

    def destroy_tenant(self, tenant_id: str) -> bool:
        """The tenant has no key any more, and so nobody of it has one that opens.

        Raises:
            ConfigurationError: It has one.
        """
        try:
            self.tenant_key(tenant_id)
        except KeyDestroyedError:
            return False
        raise _refused("destroy a tenant's keys")

    def rotate_tenant(self, tenant_id: str, *, now: datetime, progress: Progress = no_progress) -> Rotated:
        raise _refused("rotate a key")


def _refused(what: str) -> ConfigurationError:
    return ConfigurationError(f"this would {what}, and the keyring is only looked into here")
