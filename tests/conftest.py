"""Shared fixtures; makes the reference packages importable beside a CPU build of torch."""
