"""How often a client may ask: by its socket, whatever it says of itself."""

from dataclasses import replace

import pytest

from fabella.server.rate_limit import RateLimiter
from tests.server.stubs import SMALL, InProcess, hashing, shelf


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_at_once_and_fills_evenly() -> None:
    clock = Clock()
    rate = RateLimiter(6, clock)
    assert [rate.take("10.0.0.1") for _ in range(8)] == [0, 0, 0, 0, 0, 0, 10, 10]
    assert rate.take("10.0.0.2") == 0, "another client has a bucket of its own"
    clock.now += 10
    assert [rate.take("10.0.0.1") for _ in range(2)] == [0, 10]
    clock.now += 4
    assert rate.take("10.0.0.1") == 6
    clock.now += 3600
    assert [rate.take("10.0.0.1") for _ in range(7)] == [0] * 6 + [10]


def test_less_than_one_a_minute_lets_one_through_in_time() -> None:
    rate = RateLimiter(1, Clock())
    assert [rate.take("a") for _ in range(2)] == [0, 60]


def test_without_a_limit_nobody_waits() -> None:
    rate = RateLimiter(0)
    assert {rate.take("10.0.0.1") for _ in range(1000)} == {0}


def test_an_ipv6_client_is_its_network() -> None:
    rate = RateLimiter(1, Clock())
    assert [rate.take(f"2001:db8::{i}") for i in range(3)] == [0, 60, 60]
    assert rate.take("2001:db8:0:1::1") == 0
    assert [rate.take("::ffff:10.0.0.1"), rate.take("::ffff:10.0.0.2")] == [0, 0]


def test_those_who_asked_long_ago_are_forgotten_first() -> None:
    rate = RateLimiter(1, Clock())
    for number in range(10_001):
        assert rate.take(f"client {number}") == 0
    assert rate.take("client 10000") == 60
    assert rate.take("client 0") == 0, "forgotten, since ten thousand have asked since"


@pytest.mark.fault("F21", cases=12)
def test_no_header_makes_a_client_another_one() -> None:
    limits = replace(SMALL, requests_per_minute=2)
    body = {"prompt": "Once", "max_tokens": 1}
    names = [
        "x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip", "x-client-ip", "via",
        "x-forwarded-host", "x-cluster-client-ip", "fastly-client-ip", "authorization", "user-agent",
    ]  # fmt: skip
    with InProcess(shelf(hashing(), limits=limits), limits) as near:
        assert [near.post("/v1/completions", body).status for _ in range(2)] == [200, 200]
        for number, name in enumerate(names):
            answer = near.post("/v1/chat/completions", body, **{name.replace("-", "_"): f"203.0.113.{number}"})
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) in range(1, 31)
            assert answer.error["code"] == "rate_limit_exceeded"
        assert near.get("/v1/models").status == 200, "only texts are counted"
