"""`python -m ponder.testing.endpoint`: run a fake OpenAI-compatible endpoint until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import fields
from typing import cast

from ponder.testing.endpoint.dialects import DIALECTS
from ponder.testing.endpoint.faults import Fault
from ponder.testing.endpoint.service import Service
from ponder.testing.endpoint.settings import Changes, Settings, settings_from_json
from ponder.testing.endpoint.wire import serve


def build_parser() -> argparse.ArgumentParser:
    """The command line: one option per setting, and nothing that is not given is changed."""
    parser = argparse.ArgumentParser(
        prog="python -m ponder.testing.endpoint",
        description="Run a fake OpenAI-compatible endpoint; prints its URL as one JSON line when it is ready.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one (default: 0)")
    parser.add_argument("--stdin", action="store_true", default=False, help="read settings as JSON, stop when it ends")
    parser.add_argument("--dialect", choices=list(DIALECTS), help="what kind of server to play (default: vllm)")
    parser.add_argument("--latency", type=float, help="seconds to the first byte")
    parser.add_argument("--token-latency", type=float, help="seconds per token")
    parser.add_argument("--rate-limit", type=float, help="requests per second before 429")
    parser.add_argument("--burst", type=float, help="requests the rate limit lets through at once")
    parser.add_argument("--max-live", type=int, help="requests in service at once before 429")
    parser.add_argument("--key", help="the API key to ask for")
    parser.add_argument("--models", nargs="+", help="names of the models to serve (default: fake)")
    parser.add_argument("--context", type=int, help="length of the context in tokens (default: 8192)")
    parser.add_argument("--correct", type=float, help="probability of a correct answer (default: 0.5)")
    parser.add_argument("--slips", type=float, help="probability that a reasoning line is off by one (default: 0)")
    parser.add_argument("--separator", help="what joins the lines of a reply (default: a line break)")
    parser.add_argument("--weights", type=int, help="which weights stand behind the model's name")
    parser.add_argument("--fault-seed", type=int, help="seed of the faults that happen by chance")
    parser.add_argument("--log", type=int, help="how many requests to keep in the log; 0 for counters only")
    parser.add_argument(
        "--fault", dest="faults", action="append", type=Fault.parse, metavar="KIND[=SECONDS][@N,...][:P]",
        help="a fault, such as hang@3 or retry_ms=0.02:0.1; may be given several times",
    )  # fmt: skip
    return parser


def main() -> None:
    """Run the endpoint."""
    parser = build_parser()
    options = vars(parser.parse_args())
    names = {field.name for field in fields(Settings)}
    changes = cast(Changes, {name: value for name, value in options.items() if name in names})
    try:
        settings = settings_from_json(_first_line(sys.stdin.fileno())) if options["stdin"] else Settings()
        service = Service(settings.changed(changes), time.time)
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(serve(service, options["host"], options["port"], until_stdin_ends=options["stdin"]))


def _first_line(descriptor: int) -> bytes:
    """The first line of standard input, read without a buffer so that the end can be watched afterwards."""
    with open(descriptor, "rb", buffering=0, closefd=False) as raw:
        return raw.readline()


if __name__ == "__main__":
    main()
