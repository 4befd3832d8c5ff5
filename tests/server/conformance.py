"""The conformance list: what OpenAI's clients rely on, as data (conformance.json), run with any client and checked in one place.

    python tests/server/conformance.py                              # Python client of this environment, and curl
    python tests/server/conformance.py --python ENV/bin/python      # another version of the client
    python tests/server/conformance.py --node FOLDER                # a folder with node_modules/openai in it

A case says what is sent (`say` is short for one user message, `words` for one of so many words) and what must come. A place is a path into the result: `body.` of a whole
reply, `chunks.` of a stream (chunks, or events of a response); `said.` holds a stream put together for each index, `error.` the error object. An expectation is a value,
or an object: {"re"}, {"is": type}, {"len"}, {"min"}, {"max"}, {"has"}, {"same": other place}; null also means that nothing is there.
`twice` runs the case again and compares the place.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
KEY = "sk-ponder-test"
POSTED = {"chat": "/chat/completions", "text": "/completions", "response": "/responses"}


def load():
    """The cases, with what is short written out."""
    cases = json.loads((HERE / "conformance.json").read_text("utf-8"))
    for case in cases:
        case.setdefault("call", "chat")
        body = case.setdefault("body", {})
        if case["call"] in POSTED:
            body.setdefault("model", "fake")
        if "words" in case:
            case["say"] = "word " * case["words"]
        if "say" in case and case["call"] == "response":
            body["input"] = case["say"]
        elif "say" in case:
            body["messages"] = [{"role": "user", "content": case["say"]}]
    assert len({case["name"] for case in cases}) == len(cases)
    return cases


def faults(case, result, again=None):
    """What is wrong with a result; empty if nothing is."""
    result = {**result, "said": said(result.get("chunks") or [])}
    expected = {"status": 200, **case["expect"]}
    found = [
        f"{place}: {got!r} is not {wanted!r}"
        for place, wanted in expected.items()
        if not fits(got := at(result, place), wanted, result)
    ]
    if "done" in result and result["done"] is ("error" in result):
        found.append(f"[DONE] {'came after an error' if result['done'] else 'is missing'}")
    if "twice" in case and again is not None and at(result, case["twice"]) != at(again, case["twice"]):
        found.append(f"{case['twice']}: differs the second time")
    return found


def said(chunks):
    """A stream put together: for each index its roles, content, reasoning, calls, logprobs, finish."""
    whole = {}
    for chunk in chunks:
        if "type" in chunk:
            events(chunk, whole)
        for choice in chunk.get("choices", []):
            one = whole.setdefault(
                str(choice["index"]), {"content": "", "reasoning": "", "arguments": "", "names": [], "tokens": [], "finish": []}
            )
            delta = choice.get("delta") or {}
            one["content"] += delta.get("content") or choice.get("text") or ""
            one["reasoning"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or []:
                one["arguments"] += call["function"].get("arguments") or ""
                one["names"] += [name] if (name := call["function"].get("name")) else []
            probabilities = choice.get("logprobs") or {}
            one["tokens"] += [token["token"] for token in probabilities.get("content") or []] + (
                probabilities.get("tokens") or []
            )
            one["finish"] += [choice["finish_reason"]] if choice.get("finish_reason") else []
    return whole


def events(event, whole):
    """The same of a response: `kinds` are those of its events without repetitions, `numbers` is whether they are counted from 0."""
    one = whole.setdefault("0", {"content": "", "reasoning": "", "arguments": "", "kinds": [], "numbers": True, "count": 0})
    one["numbers"] &= event["sequence_number"] == one["count"]
    one["count"] += 1
    kind = event["type"].removeprefix("response.")
    one["kinds"] += [kind] if one["kinds"][-1:] != [kind] else []
    deltas = {"output_text": "content", "reasoning_text": "reasoning", "function_call_arguments": "arguments"}
    if (field := deltas.get(kind.removesuffix(".delta"))) and kind.endswith(".delta"):
        one[field] += event["delta"]


def at(value, place):
    """What stands at a place such as body.choices.0.message; None where nothing does."""
    for part in place.split("."):
        if isinstance(value, list):
            value = value[int(part)] if part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def fits(got, wanted, result):
    if not isinstance(wanted, dict):
        return got == wanted and isinstance(got, bool) == isinstance(wanted, bool)
    kinds = {"string": str, "integer": int, "number": (int, float), "object": dict, "array": list}
    tests = {
        "re": lambda value: isinstance(got, str) and re.search(value, got, re.DOTALL),
        "is": lambda value: isinstance(got, kinds[value]) and not isinstance(got, bool),
        "len": lambda value: got is not None and len(got) == value,
        "min": lambda value: got is not None and (got if isinstance(got, int | float) else len(got)) >= value,
        "max": lambda value: got is not None and (got if isinstance(got, int | float) else len(got)) <= value,
        "has": lambda value: got is not None and value in got,
        "same": lambda value: got == at(result, value),
        "sum": lambda value: got == sum(at(result, place) for place in value),
    }
    return all(tests[name](value) for name, value in wanted.items())


def curl(case, url, key):
    """One case by curl; the result as the clients give it, with `done` for the end of a stream and the reply's headers."""
    path = {**POSTED, "models": "/models", "model": f"/models/{case.get('id')}"}[case["call"]]
    command = ["curl", "-sS", "-i", "-N", "--max-time", "30", url + path, "-H", f"Authorization: Bearer {case.get('key', key)}"]
    for name, value in (case.get("headers") or {}).items():
        command += ["-H", f"{name}: {value}"]
    if case["call"] in POSTED:
        command += ["-H", "Content-Type: application/json", "--data-binary", "@-"]
    data = json.dumps(case["body"]) if case["call"] in POSTED else ""
    head, _, text = (
        subprocess.run(command, input=data.encode(), capture_output=True, check=True).stdout.decode().partition("\r\n\r\n")
    )
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
    result = {"status": int(head.split()[1]), "headers": headers, "request_id": headers.get("x-request-id")}
    if not headers["content-type"].startswith("text/event-stream"):
        body = json.loads(text)
        return {**result, **({"error": body["error"]} if body.get("error") else {"body": body})}
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    errors = [chunk["error"] for chunk in chunks if "error" in chunk]
    if case["call"] == "response":  # the last event says that it is the last
        assert "[DONE]" not in lines
    else:
        result["done"] = lines[-1] == "[DONE]"
    result |= {"chunks": [chunk for chunk in chunks if "error" not in chunk]}
    return {**result, **({"error": errors[0]} if errors else {})}


def by_script(command, cases, url, key):
    """The results of a client that runs in a process of its own."""
    done = subprocess.run([*command, url, key], input=json.dumps(cases).encode(), capture_output=True, check=False)
    lines = done.stdout.decode().splitlines()
    assert len(lines) == len(cases), done.stderr.decode()[-2000:]
    return [json.loads(line) for line in lines]


def check(client, cases, results, again):
    """The faults of all cases, one line each."""
    return [
        f"{client}: {case['name']}: {fault}"
        for case, result, second in zip(cases, results, again, strict=True)
        for fault in faults(case, result, second)
    ]


def config(upstream, **more):
    """The configuration that the list is run against."""
    from hashlib import sha256

    from ponder.server.config import Config

    strategies = {"sc": "self_consistency(n=8)", "bon": "best_of_n(n=4, verifier=sure)"}
    keys = ({"name": "test", "sha256": sha256(KEY.encode()).hexdigest()},)
    return Config(policy=upstream, strategies=strategies, verifiers={"sure": "confidence"}, keys=keys, **more)


def main():
    parser = argparse.ArgumentParser(description="Run the conformance list with several clients.")
    parser.add_argument("--python", help="an interpreter with another version of openai")
    parser.add_argument("--node", type=Path, help="a folder with node_modules/openai in it")
    options = parser.parse_args()

    import sdk_python
    from served import Served

    from ponder.testing.endpoint import FakeEndpoint

    cases = load()
    with FakeEndpoint() as endpoint, Served(config(endpoint.url)) as served:
        clients = {
            f"python {sdk_python.openai.__version__}": lambda: [sdk_python.run(case, served.url, KEY) for case in cases],
            "curl": lambda: [curl(case, served.url, KEY) for case in cases],
        }
        if options.python:
            clients[options.python] = lambda: by_script([options.python, str(HERE / "sdk_python.py")], cases, served.url, KEY)
        if options.node:
            script = shutil.copy(HERE / "sdk_node.mjs", options.node)  # node looks for modules beside the script
            clients["node"] = lambda: by_script(["node", script], cases, served.url, KEY)
        found = []
        for name, run in clients.items():
            wrong = check(name, cases, run(), run())
            found += wrong
            print(f"{name}: {len(cases)} cases, {len({line.split(': ')[1] for line in wrong})} failed")
    print(*found, sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
