"""The command line: the composition root, where names become parts and loops join search and learning."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `ponder` command."""
    from ponder.cli.main import run_main

    run_main()
