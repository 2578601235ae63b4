"""The audit log: one immutable event for every operation, committed before its result is returned."""
