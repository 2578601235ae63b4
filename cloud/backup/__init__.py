"""Backup and restore of both databases, so that nobody comes back who was erased."""
