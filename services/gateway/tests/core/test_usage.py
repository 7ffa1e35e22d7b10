"""Who may see which usage, and questions that are none."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from gateway.core.accounts import Account
from gateway.core.attempts import Settled
from gateway.core.usage import NotYours, Place, Usage, UsageQuery, UsageSum
from gateway_ledger_fakes import settled
from servicekit.errors import Forbidden, InvalidInput

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


class Source:
    """Remembers what it is asked and answers with as many entries as were wanted."""

    def __init__(self) -> None:
        self.asked: list[tuple[UsageQuery, Place | None]] = []

    async def sums(self, query: UsageQuery, after: Place | None) -> Sequence[UsageSum]:
        self.asked.append((query, after))
        numbers = dict.fromkeys(
            ("attempts", "calls", "cancelled", "failed", "abandoned", "input_tokens", "output_tokens", "cost_nanos"), 1
        )
        group = {name: 3600 if name in {"day", "hour"} else "x" for name in query.by}
        return [UsageSum(group=group, cached_input_tokens=0, **numbers)] * query.limit

    async def rows(self, query: UsageQuery, after: Place | None) -> Sequence[Settled]:
        self.asked.append((query, after))
        return [settled("a")] * query.limit


def asks(**changes: object) -> UsageQuery:
    values = {"since": SINCE, "until": SINCE + timedelta(days=1), "limit": 2}
    return UsageQuery(**values | changes)  # type: ignore[arg-type]


def who(*scopes: str) -> Account:
    return Account("acme", "site", "key-1", "me", frozenset(scopes))


@pytest.mark.parametrize(
    ("scopes", "admin", "tenant", "project"),
    [((), False, "acme", "site"), (("admin",), False, "acme", "site"), (("tenant-admin",), True, "acme", ""),
     (("admin",), True, "", "")],
)  # fmt: skip
async def test_everyone_sees_what_is_his(scopes: tuple[str, ...], admin: bool, tenant: str, project: str) -> None:
    source = Source()
    await Usage(source).sums(who(*scopes), asks(), admin=admin)
    await Usage(source).rows(who(*scopes), asks(), admin=admin)
    assert [(query.tenant, query.project) for query, _ in source.asked] == [(tenant, project)] * 2


@pytest.mark.parametrize(
    ("scopes", "admin", "changes"),
    [((), False, {"tenant": "other"}), ((), False, {"project": "other"}), (("models",), True, {}),
     (("tenant-admin",), True, {"tenant": "other"}), (("tenant-admin",), False, {"project": "other"})],
)  # fmt: skip
async def test_nobody_sees_what_is_not_his(scopes: tuple[str, ...], admin: bool, changes: dict[str, str]) -> None:
    source = Source()
    for ask in (Usage(source).sums, Usage(source).rows):
        with pytest.raises(Forbidden):
            await ask(who(*scopes), asks(**changes), admin=admin)
    assert source.asked == []
    assert issubclass(NotYours, Forbidden)


async def test_pages_go_on_after_the_last_entry() -> None:
    source = Source()
    usage, query = Usage(source), asks(by=("model", "day"))
    first = await usage.sums(who(), query, admin=False)
    await usage.sums(who(), asks(by=("model", "day"), page_token=first.next_page_token), admin=False)
    assert source.asked[1][1] == ("x", 3600)
    rows = await usage.rows(who(), asks(), admin=False)
    await usage.rows(who(), asks(page_token=rows.next_page_token), admin=False)
    assert source.asked[3][1] == (round(settled("a").attempt.started_at * 1e6), "a")
    assert (await usage.sums(who(), asks(), admin=False)).next_page_token == ""


@pytest.mark.parametrize(
    ("field", "changes"),
    [("page_size", {"limit": 0}), ("page_size", {"limit": 1001}), ("by", {"by": ("principal",)}),
     ("by", {"by": ("day", "day")}), ("until", {"until": SINCE}), ("since", {"since": datetime(2026, 1, 1)}),  # noqa: DTZ001
     ("model", {"model": "a\0b"}), ("tenant", {"tenant": "x" * 257}), ("key_id", {"key_id": "\ud800"}),
     ("page_token", {"page_token": "bm8"}), ("page_token", {"page_token": "W1tbW1tbW1tbW1tb" * 40}),
     ("page_token", {"page_token": "é"}), ("page_token", {"page_token": "WzEsMl0"}),
     ("page_token", {"page_token": "WzFlMzA4LCJhIl0"}), ("page_token", {"page_token": "x" * 5000}),
     ("page_token", {"page_token": "Wzk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5LCJhIl0"})],
)  # fmt: skip
async def test_what_is_no_question_is_refused_by_its_field(field: str, changes: dict[str, object]) -> None:
    source = Source()
    with pytest.raises(InvalidInput) as raised:
        await Usage(source).rows(who(), asks(**changes), admin=False)
    assert raised.value.field == field
    assert source.asked == []
