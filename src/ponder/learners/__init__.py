"""Samples in, weights out; torch is imported inside functions."""
