"""schemathesis over the server's own description of its API, what fits it and what does not, against the fake endpoint.

    python tests/server/fuzz.py --examples 500

Ends with 1 if there was a 5xx, an undocumented status, a reply that does not fit its schema, wrong data let in or right data refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import conformance
from served import Served

from ponder.testing.endpoint import FakeEndpoint


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the server by its OpenAPI document.")
    parser.add_argument("--examples", type=int, default=500, help="for each operation, besides the coverage phase")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    auth = f"Authorization: Bearer {conformance.KEY}"
    with ExitStack() as stack:
        endpoint = stack.enter_context(FakeEndpoint())
        config = conformance.config(endpoint.url, limits={"choices": 4})  # so that an example is soon answered
        served, folder = stack.enter_context(Served(config)), stack.enter_context(tempfile.TemporaryDirectory())
        file = Path(folder) / "openapi.json"
        file.write_text(json.dumps(served.call("GET", "/openapi.json", headers=dict([auth.split(": ")])).json))
        command = [
            Path(sys.executable).with_name("st"),
            "--config-file",
            Path(__file__).with_name("schemathesis.toml"),
            "run",
            file,
        ]
        command += [
            "--url",
            served.url.removesuffix("/v1"),
            "--header",
            auth,
            "--mode",
            "all",
            "--phases",
            "examples,coverage,fuzzing",
        ]
        command += [
            "--max-examples",
            str(options.examples),
            "--seed",
            str(options.seed),
            "--continue-on-failure",
            "--max-failures",
            "20",
        ]
        code = subprocess.run(command, check=False).returncode
        print(
            f"requests that the engine saw: {endpoint.stats().received}; faults that the server logged: {served.lines or 'none'}"
        )
    sys.exit(code)


if __name__ == "__main__":
    main()
