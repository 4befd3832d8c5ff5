"""Runs conformance cases with the official Python client: `python sdk_python.py URL KEY < cases.json`, one result a line.

Needs nothing but `openai`, so that it also runs in an environment with another version of it.
"""

import inspect
import json
import sys
from functools import cache

import openai


@cache
def client_of(url, key):
    """One client for all cases: to make one takes longer than to ask."""
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=30)


def run(case, url, key):
    """What the client makes of one case: status, body or chunks or error."""
    client = client_of(url, case.get("key", key))
    try:
        if case["call"] == "models":
            return {"status": 200, "body": {"data": [model.model_dump() for model in client.models.list()]}}
        if case["call"] == "model":
            return {"status": 200, "body": client.models.retrieve(case["id"]).model_dump()}
        routes = {"chat": client.chat.completions, "text": client.completions, "response": client.responses}
        create = routes[case["call"]].create
        known = inspect.signature(create).parameters
        body = {name: value for name, value in case["body"].items() if name in known}
        extra = {name: value for name, value in case["body"].items() if name not in known}
        found = create(**body, extra_body=extra, extra_headers=case.get("headers"))
        if not body.get("stream"):
            return {"status": 200, "body": found.model_dump(), "request_id": found._request_id}
        chunks = []
        try:
            chunks += [chunk.model_dump(exclude_unset=True) for chunk in found]
        except openai.APIError as error:
            return {"status": 200, "error": error.body, "chunks": chunks}
        return {"status": 200, "chunks": chunks}
    except openai.APIStatusError as error:
        return {"status": error.status_code, "error": error.body, "request_id": error.request_id}


if __name__ == "__main__":
    for case in json.load(sys.stdin):
        print(json.dumps(run(case, *sys.argv[1:3])), flush=True)
