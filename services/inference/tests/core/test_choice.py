"""Which replica is chosen."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from inference.core.choice import kept_together, less_loaded_of_two, slow_start


@dataclass(frozen=True, slots=True)
class Place:
    address: str
    outstanding: int = 0
    share: float = 1.0

    def weight(self) -> float:
        return self.share


def shares(places: list[Place], seed: int = 7, draws: int = 3000) -> Counter[str]:
    random = Random(seed).random
    return Counter(less_loaded_of_two(places, random).address for _ in range(draws))


def test_of_two_the_less_loaded_one_is_chosen() -> None:
    assert shares([Place("a", 3), Place("b", 2)]) == {"b": 3000}


def test_the_most_loaded_of_three_gets_nothing_and_the_idle_one_most() -> None:
    counts = shares([Place("a", 9), Place("b", 5), Place("c", 0)])
    assert counts["a"] == 0
    assert counts["c"] > 1800


def test_equal_ones_get_equal_shares() -> None:
    counts = shares([Place("a"), Place("b"), Place("c")])
    assert all(850 < counts[each] < 1150 for each in "abc")


def test_a_newcomer_gets_the_more_the_longer_it_is_there_even_if_it_is_idle() -> None:
    got = [shares([Place("a", 0), Place("b", 0), Place("new", 0, weight)])["new"] for weight in (0.1, 0.5, 1.0)]
    assert 0 < got[0] < 300
    assert got[0] < got[1] < got[2]


def test_the_weight_grows_to_one_and_is_never_nothing() -> None:
    assert [slow_start(age, 10.0) for age in (0.0, 0.5, 5.0, 10.0, 99.0)] == [0.1, 0.1, 0.5, 1.0, 1.0]
    assert slow_start(0.0, 0.0) == 1.0


def test_the_same_key_stays_and_keys_spread() -> None:
    places = [Place(each) for each in "abcd"]
    random = Random(1).random
    chosen = {f"key {number}": kept_together(places, f"key {number}", random).address for number in range(400)}
    again = {key: kept_together(places, key, random).address for key in chosen}
    assert again == chosen
    assert all(60 < count < 140 for count in Counter(chosen.values()).values())


def test_when_a_replica_leaves_only_its_own_keys_move() -> None:
    places = [Place(each) for each in "abcd"]
    random = Random(1).random
    before = {number: kept_together(places, str(number), random).address for number in range(400)}
    after = {number: kept_together(places[1:], str(number), random).address for number in range(400)}
    assert all(after[number] == where for number, where in before.items() if where != "a")


def test_a_key_does_not_bury_its_replica() -> None:
    random = Random(1).random
    idle = [Place(each) for each in "abcd"]
    home = kept_together(idle, "popular", random).address
    busy = [Place(each, 40 if each == home else 2) for each in "abcd"]
    assert kept_together(busy, "popular", random).address != home


@given(st.text(), st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.integers())
def test_somebody_is_always_chosen(key: str, loads: list[int], seed: int) -> None:
    places = [Place(str(index), load) for index, load in enumerate(loads)]
    random = Random(seed).random
    assert kept_together(places, key, random) in places
    assert less_loaded_of_two(places, random) in places
