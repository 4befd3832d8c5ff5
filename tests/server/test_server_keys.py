"""What a key may spend in a day: to the token, at once, and when its client goes away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import conformance
import pytest
from served import Served, hang_up, opened, until

from ponder.server.config import Config

pytestmark = pytest.mark.slow
KEY = {"Authorization": f"Bearer {conformance.KEY}"}


def keyed(endpoint, tokens):
    keys = ({"name": "test", "sha256": sha256(conformance.KEY.encode()).hexdigest(), "tokens_per_day": tokens},)
    return Served(Config(policy=endpoint.url, strategies={"sc": "self_consistency(n=8)"}, keys=keys))


def test_a_keys_allowance_is_spent_to_the_token_and_then_refused(endpoint):
    with keyed(endpoint, 10) as served:
        got = served.chat("ECHO: aaaa bbb ccc ddd", "fake+sc", headers=KEY)
        assert got.json["usage"]["completion_tokens"] == 10
        assert got.json["ponder"]["exhausted"]
        refused = served.chat(headers=KEY)
        assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
        assert served.chat().status == 401
        assert served.call("GET", "/metrics").status == 401
        assert served.call("GET", "/health").status == 200


def test_a_search_holds_no_more_of_a_keys_allowance_than_it_asks_for(endpoint):
    with keyed(endpoint, 100_000) as served, ThreadPoolExecutor(4) as pool:
        endpoint.configure(latency=0.3)
        endpoint.reset()
        got = list(pool.map(lambda _: served.chat("ECHO: a b", "fake+sc", max_tokens=1000, headers=KEY), range(4)))
        assert [one.status for one in got] == [200] * 4
        account = served.server.ledger.accounts["test"]
        assert (account.tokens, account.held) == (endpoint.stats().completion_tokens, 0)


def test_a_client_that_goes_away_has_spent_what_it_asked_for(endpoint):
    with keyed(endpoint, 100_000) as served:
        endpoint.configure(token_latency=0.05)
        connection = opened(served, stream=True, max_tokens=300, key=KEY)
        response = connection.getresponse()
        while b"word" not in response.readline():
            pass
        hang_up(connection)
        account = served.server.ledger.accounts["test"]
        until(lambda: account.held == 0)
        assert account.tokens == 300
