"""Memories that come from files and go to files: import of several formats, export that comes back without a loss."""
