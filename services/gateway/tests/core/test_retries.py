"""Retries are linked to what they retry, within one key, for a while, in bounded memory."""

from gateway.core.retries import RetryLinks, fingerprint


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


ACME, OTHER = ("acme", "key-1"), ("acme", "key-2")


def test_a_retry_is_linked_by_its_body_only_if_the_client_says_it_is_one() -> None:
    links, body = RetryLinks(), fingerprint("", b'{"model": "a"}')
    assert links.link(ACME, body, "call-1", retry_count=0) == ""
    assert links.link(ACME, body, "call-2", retry_count=0) == ""
    assert links.link(ACME, body, "call-3", retry_count=1) == "call-2"
    assert links.link(ACME, body, "call-4", retry_count=2) == "call-3"
    assert links.link(ACME, fingerprint("", b"{}"), "call-5", retry_count=1) == ""


def test_an_idempotency_key_links_whatever_the_body_is() -> None:
    links = RetryLinks()
    assert links.link(ACME, fingerprint("k", b"1"), "call-1", retry_count=0) == ""
    assert links.link(ACME, fingerprint("k", b"2"), "call-2", retry_count=0) == "call-1"


def test_another_key_is_never_linked() -> None:
    links = RetryLinks()
    links.link(ACME, fingerprint("k", b""), "call-1", retry_count=0)
    assert links.link(OTHER, fingerprint("k", b""), "call-2", retry_count=1) == ""


def test_links_end_after_a_while_and_memory_is_bounded() -> None:
    clock = Clock()
    links = RetryLinks(limit=1000, lifetime_s=60, clock_s=clock)
    for number in range(5000):
        links.link(ACME, fingerprint(f"k{number}", b""), f"call-{number}", retry_count=0)
    assert len(links._calls) == 1000
    assert links.link(ACME, fingerprint("k3999", b""), "late", retry_count=1) == ""
    assert links.link(ACME, fingerprint("k4500", b""), "in time", retry_count=1) == "call-4500"
    clock.now = 61
    assert links.link(ACME, fingerprint("k4999", b""), "too late", retry_count=1) == ""


def test_a_fingerprint_hides_what_it_is_of_and_tells_large_bodies_apart() -> None:
    large = b"x" * 5_000_000
    assert len({fingerprint("", body) for body in (large, large + b"x", b"y" + large[1:], large[:-1] + b"y")}) == 4
    assert "sk-secret" not in fingerprint("sk-secret", b"")
    assert len(fingerprint("\ud800" * 300, large)) <= 64
