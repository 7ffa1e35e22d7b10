"""Ids sort by the moment they were made, and are not given twice."""

from gateway.core.ids import new_id


def test_ids_are_of_one_length_and_not_given_twice() -> None:
    ids = {new_id("call_") for _ in range(10_000)}
    assert len(ids) == 10_000
    assert {len(each) for each in ids} == {len("call_") + 24}


def test_ids_sort_by_the_millisecond_they_were_made_in() -> None:
    ids = [new_id("x") for _ in range(10_000)]
    moments = [each[:13] for each in ids]
    assert moments == sorted(moments)
    assert len(set(moments)) > 1
