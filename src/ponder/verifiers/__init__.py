"""Belief in a chain without its reference; one idea a file."""
