"""Similar lengths together, fair turns, nothing starves, nothing is lost."""

import random

from embedding.core.flight import Flight
from embedding.core.length_queue import BatchLimits, LengthQueue
from embedding.core.ports import TOKEN_BYTES
from embedding_fakes import FINGERPRINT


def flight(length: int, name: str = "") -> Flight:
    return Flight(name.encode(), bytes(TOKEN_BYTES * length), FINGERPRINT, lambda _: None)


def lengths(flights: list[Flight]) -> list[int]:
    return [flight.length for flight in flights]


def test_takes_the_oldest_and_its_like() -> None:
    queue = LengthQueue()
    queue.add([flight(length) for length in (20, 190, 21, 200, 19, 205)])
    assert sorted(lengths(queue.take(BatchLimits()))) == [19, 20, 21]
    assert sorted(lengths(queue.take(BatchLimits()))) == [190, 200, 205]
    assert queue.take(BatchLimits()) == []


def test_few_short_texts_of_unlike_length_go_together_for_padding_is_cheaper_than_a_call() -> None:
    queue = LengthQueue()
    queue.add([flight(5), flight(20)])
    assert len(queue.take(BatchLimits())) == 2


def test_holds_to_both_bounds_of_a_batch() -> None:
    queue = LengthQueue()
    queue.add([flight(100) for _ in range(50)])
    assert len(queue.take(BatchLimits(texts=32, tokens=1000))) == 10
    assert len(queue.take(BatchLimits(texts=7, tokens=1000))) == 7
    assert len(queue.take(BatchLimits(texts=7, tokens=10))) == 1
    assert len(queue) == 32


def test_padding_stays_below_its_share_on_mixed_lengths() -> None:
    queue, source = LengthQueue(), random.Random(1)
    queue.add([flight(source.randint(3, 256)) for _ in range(2000)])
    own = padded = 0
    while batch := lengths(queue.take(BatchLimits())):
        own, padded = own + sum(batch), padded + len(batch) * max(batch)
    assert (padded - own) / padded < 0.12


def test_a_batch_is_padded_by_less_than_a_call_costs_or_by_an_eighth() -> None:
    queue = LengthQueue()
    queue.add([flight(length) for length in (2, 2, 2, 3, 250, 9, 40, *range(100, 130))])
    while batch := lengths(queue.take(BatchLimits())):
        assert len(batch) * max(batch) - sum(batch) <= max(16, sum(batch) / 8)


def test_a_small_request_does_not_wait_for_a_large_one_before_it() -> None:
    queue, limits = LengthQueue(), BatchLimits(texts=8)
    queue.add([flight(100) for _ in range(1000)])
    queue.take(limits)
    lone = flight(12)
    queue.add([lone])
    assert any(lone in queue.take(limits) for _ in range(2))


def test_an_odd_length_is_not_starved_by_a_stream_of_like_ones() -> None:
    queue, limits = LengthQueue(), BatchLimits(texts=4)
    queue.add([flight(24) for _ in range(8)])
    odd = flight(250)
    queue.add([odd])
    rounds = 0
    while odd not in queue.take(limits):
        queue.add([flight(24) for _ in range(4)])
        rounds += 1
    assert rounds <= 3


def test_a_dropped_text_does_not_come_out() -> None:
    queue = LengthQueue()
    kept, gone = flight(5, "kept"), flight(5, "gone")
    queue.add([gone, kept])
    assert queue.drop(gone)
    assert not queue.drop(gone)
    assert len(queue) == 1
    assert queue.take(BatchLimits()) == [kept]
    assert not queue.drop(kept)


def test_every_text_comes_out_once() -> None:
    queue, source = LengthQueue(), random.Random(2)
    put: list[Flight] = []
    out: list[Flight] = []
    for _ in range(300):
        request = [flight(source.randint(1, 256)) for _ in range(source.randint(0, 9))]
        queue.add(request)
        put += request
        out += queue.take(BatchLimits(texts=5))
    while batch := queue.take(BatchLimits()):
        out += batch
    assert len(out) == len(put)
    assert set(out) == set(put)
    assert len(queue) == 0
