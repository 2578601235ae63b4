"""Leaks of other systems, put back as patches: the shipped leak test has to find each."""
