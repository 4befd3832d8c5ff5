"""Runs code that nobody has read, in a process of its own behind walls that were tried first. Read core.py, then rooms.py."""
