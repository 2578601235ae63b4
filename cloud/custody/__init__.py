"""Custody of the keyring: rotation, backup, restoring and diagnosis, audited, for the operator."""
