import pytest
from feature_store.core.catalogue import ScalarType, UnknownFeature, UnknownView
from feature_store.core.read_plan import MalformedFeatureName, ReadPlans, WrongFeatureCount, compile_plan
from feature_store_fakes import PROFILE, STOCK, catalogue


def test_reads_each_view_once_whatever_the_order_asked() -> None:
    plan = compile_plan(catalogue(), ("profile:city", "stock:count", "profile:visits", "profile:city"))
    assert [(read.view, read.features) for read in plan.reads] == [
        ("profile", ("city", "visits")),
        ("stock", ("count",)),
    ]
    assert [column.position for column in plan.reads[0].columns] == [0, 2, 3]
    assert plan.reads[1].key_names == ("item_id", "warehouse")
    assert plan.keys == {
        "user_id": ScalarType.STRING, "warehouse": ScalarType.INT, "item_id": ScalarType.STRING,
    }  # fmt: skip


def test_compiles_once_per_generation_and_names() -> None:
    current = catalogue()
    plans = ReadPlans(lambda: current)
    first = plans.plan(("profile:city",))
    assert plans.plan(("profile:city",)) is first
    assert plans.plan(("profile:visits",)) is not first
    current = catalogue(generation="2")
    assert plans.plan(("profile:city",)) is not first


def test_a_dropped_view_is_unknown_at_once() -> None:
    current = catalogue()
    plans = ReadPlans(lambda: current)
    plans.plan(("stock:count",))
    current = catalogue(PROFILE, generation="2")
    with pytest.raises(UnknownView, match="'stock'"):
        plans.plan(("stock:count",))


def test_keeps_a_bounded_number_of_plans() -> None:
    features = {f"f{number}": ScalarType.INT for number in range(300)}
    wide = type(PROFILE)("wide", "", STOCK.entity_keys, features, 0)
    plans = ReadPlans(lambda: catalogue(wide))
    first = plans.plan(("wide:f0",))
    for number in range(300):
        plans.plan((f"wide:f{number}",))
    assert plans.plan(("wide:f0",)) is not first


@pytest.mark.parametrize("name", ["", "profile", ":city", "profile:", "city"])
def test_refuses_a_name_that_is_not_view_and_feature(name: str) -> None:
    with pytest.raises(MalformedFeatureName) as caught:
        compile_plan(catalogue(), ("profile:city", name))
    assert caught.value.field == "features[1]"


def test_names_the_unknown_feature() -> None:
    with pytest.raises(UnknownFeature, match="'profile' has no feature 'shoe_size'") as caught:
        compile_plan(catalogue(), ("profile:shoe_size",))
    assert caught.value.field == "features[0]"


@pytest.mark.parametrize("count", [0, 201])
def test_refuses_none_and_too_many(count: int) -> None:
    with pytest.raises(WrongFeatureCount):
        compile_plan(catalogue(), ("profile:city",) * count)
    assert compile_plan(catalogue(), ("profile:city",) * 200)
