"""Hostile programs, and a judge who sees from outside what they got done. Standard library and ponder.sandbox only.

`python -m tests.hostile.judge --tier bubblewrap` runs all of them in a sandbox; `--tier plain` in a bare subprocess, to show that they bite.
"""
