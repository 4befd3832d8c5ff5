"""Graders decide with the reference, out of the reach of strategies; extraction and comparison are pure functions."""
