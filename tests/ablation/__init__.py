"""Patches that break one invariant each, and the tests that must notice: `make ablate`."""
