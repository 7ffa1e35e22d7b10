"""What a caller is told of his limits, in OpenAI's headers."""

import pytest
from gateway.api.quota_headers import quota_headers
from gateway.core import quotas
from gateway.core.accounts import Limits, Subject
from gateway.core.limit_ports import Measure, Quota, Refusal

KEY = Subject("key", "k", Limits(requests_per_minute=5))


async def test_whoever_has_no_limits_is_told_nothing() -> None:
    assert quota_headers() == []


@pytest.mark.parametrize(
    ("reset_s", "written"),
    [
        (0.0, b"1ms"),
        (0.02, b"20ms"),
        (1.0, b"1s"),
        (7.34, b"7.3s"),
        (59.96, b"1m0s"),
        (60.0, b"1m0s"),
        (95.5, b"1m35.5s"),
    ],
)
async def test_a_refusal_says_what_was_used_up_and_when_it_is_there_again(reset_s: float, written: bytes) -> None:
    quotas.tell(Refusal(KEY, Measure.REQUESTS, 1.0, Quota(5, 0, reset_s)))
    assert quota_headers() == [
        (b"x-ratelimit-limit-requests", b"5"),
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"x-ratelimit-reset-requests", written),
    ]


async def test_tokens_are_told_under_their_own_name() -> None:
    quotas.tell(Refusal(KEY, Measure.TOKENS, 1.0, Quota(100, 7, 2.0)))
    assert [name for name, _ in quota_headers()] == [
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
    ]


@pytest.mark.parametrize("measure", [Measure.CONCURRENCY, Measure.DAY, Measure.MONTH])
async def test_other_limits_have_no_header(measure: Measure) -> None:
    quotas.tell(Refusal(KEY, measure, 1.0, Quota(1, 0, 1.0)))
    assert quota_headers() == []
