"""The clients that benchmarks/endpoint.py compares: scripts that sample from a URL until standard input ends, then print JSON."""
