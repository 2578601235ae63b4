"""Measurements, outside the test run: `make bench`."""
