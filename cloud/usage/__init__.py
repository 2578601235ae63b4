"""Quotas that are exact, and what a tenant used."""
