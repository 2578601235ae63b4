"""Providers that the open core ships."""
