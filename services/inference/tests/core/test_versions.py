"""The rules of versions and roles."""

import math
from dataclasses import replace
from typing import Any

import pytest
from inference.core.traffic import SplitBy
from inference.core.versions import (
    Canary,
    Evaluation,
    Registered,
    Roles,
    RolesWish,
    Variant,
    Verdict,
    Version,
    check_variants,
    content_digest,
    next_roles,
    version_name,
)
from inference_version_fakes import NOW, digest
from servicekit.errors import InvalidInput


def known(*names: str, unjudged: tuple[str, ...] = ()) -> Registered:
    versions = {
        name: Version("m", name, digest(1), (Variant("default", f"entry-{name}", digest(1)),), "", NOW, "tester")
        for name in (*names, *unjudged)
    }
    passed = Evaluation(Verdict.PASSED, NOW, "tester")
    return Registered(versions, {(name, "default"): passed for name in names})


def canaries(**weights: float) -> list[Canary]:
    return [Canary(name, weight) for name, weight in weights.items()]


def test_roles_follow_the_wish() -> None:
    wish = RolesWish("a", canaries(b=10, c=0.5), "d", 100, ["e"], SplitBy.TENANT)
    roles = next_roles(known("a", "b", "c", "e", unjudged=("d",)), wish)
    assert (roles.champion, roles.canaries, roles.shadow, roles.shadow_share) == (
        "a",
        {"b": 1_000, "c": 50},
        "d",
        10_000,
    )
    assert (roles.retired, roles.split_by, roles.revision, roles.former) == (frozenset("e"), SplitBy.TENANT, 1, "")
    assert [roles.role_of(name) for name in "abcdef"] == ["champion", "canary", "canary", "shadow", "retired", ""]


def test_the_former_champion_is_remembered_until_there_is_another() -> None:
    all_of_them = known("a", "b")
    first = next_roles(all_of_them, RolesWish("a"))
    second = next_roles(replace(all_of_them, roles=first), RolesWish("b"))
    third = next_roles(replace(all_of_them, roles=second), RolesWish("b", canaries(a=5)))
    assert (first.former, second.former, third.former) == ("", "a", "a")


@pytest.mark.parametrize(
    ("wish", "field", "reason"),
    [
        (RolesWish("x"), "champion", "unknown_version"),
        (RolesWish("u"), "champion", "not_evaluated"),
        (RolesWish("a", retired=["a"]), "champion", "roles_clash"),
        (RolesWish("a", canaries(x=1)), "canaries[0].version", "unknown_version"),
        (RolesWish("a", canaries(b=1, u=1)), "canaries[1].version", "not_evaluated"),
        (RolesWish("a", canaries(a=1)), "canaries[0].version", "roles_clash"),
        (RolesWish("a", [Canary("b", 1), Canary("b", 2)]), "canaries[1].version", "roles_clash"),
        (RolesWish("a", canaries(b=1), retired=["b"]), "canaries[0].version", "roles_clash"),
        (RolesWish("a", canaries(b=-1)), "canaries[0].weight_percent", "invalid_weight"),
        (RolesWish("a", canaries(b=100.01)), "canaries[0].weight_percent", "invalid_weight"),
        (RolesWish("a", canaries(b=math.nan)), "canaries[0].weight_percent", "invalid_weight"),
        (RolesWish("a", canaries(b=math.inf)), "canaries[0].weight_percent", "invalid_weight"),
        (RolesWish("a", canaries(b=0.001)), "canaries[0].weight_percent", "invalid_weight"),
        (RolesWish("a", canaries(b=60, c=40.01)), "canaries", "invalid_weight"),
        (RolesWish("a", [Canary("b", 1)] * 9), "canaries", "invalid_input"),
        (RolesWish("a", shadow="x", shadow_percent=1), "shadow", "unknown_version"),
        (RolesWish("a", shadow="a", shadow_percent=1), "shadow", "roles_clash"),
        (RolesWish("a", canaries(b=1), "b", 1), "shadow", "roles_clash"),
        (RolesWish("a", shadow="b", shadow_percent=-0.5), "shadow_percent", "invalid_weight"),
        (RolesWish("a", shadow="b", shadow_percent=101), "shadow_percent", "invalid_weight"),
        (RolesWish("a", shadow_percent=5), "shadow_percent", "invalid_input"),
        (RolesWish("a", retired=["b", "x"]), "retired[1]", "unknown_version"),
        (RolesWish("a", shadow="b", shadow_percent=1, retired=["b"]), "retired[0]", "roles_clash"),
    ],
)
def test_roles_that_cannot_be_are_refused_by_field(wish: RolesWish, field: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        next_roles(known("a", "b", "c", unjudged=("u",)), wish)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_weights_up_to_the_whole_are_fine() -> None:
    roles = next_roles(known("a", "b", "c"), RolesWish("a", canaries(b=60, c=40)))
    assert sum(end - start for ranges in roles.slots.values() for start, end in ranges) == 10_000


def test_the_cheapest_variant_that_passed_comes_first() -> None:
    variants = (
        Variant("fp32", "x", digest(1), 90),
        Variant("int8", "y", digest(2), 30),
        Variant("int4", "z", digest(3), 10),
    )
    version = Version("m", "1", digest(9), variants, "", NOW, "tester")
    verdicts = {"fp32": Verdict.PASSED, "int8": Verdict.PASSED, "int4": Verdict.FAILED}
    judged = {("1", name): Evaluation(verdict, NOW, "tester") for name, verdict in verdicts.items()}
    assert [each.name for each in Registered({"1": version}, judged).passed("1")] == ["int8", "fp32"]
    assert Registered({"1": version}).passed("1") == ()


@pytest.mark.parametrize(
    ("variants", "field"),
    [
        ([], "variants"),
        ([Variant(f"v{number}", "x", "") for number in range(9)], "variants"),
        ([Variant("", "x", "")], "variants[0].name"),
        ([Variant("a/b", "x", "")], "variants[0].name"),
        ([Variant("a", "x", ""), Variant("a", "y", "")], "variants[1].name"),
        ([Variant("a", "x", "065635")], "variants[0].digest"),
        ([Variant("a", "x", digest(1).upper())], "variants[0].digest"),
        ([Variant("a", "x", digest(1) + "\n")], "variants[0].digest"),
        ([Variant("a", "x", "", -1)], "variants[0].cost_nanos"),
    ],
)
def test_variants_that_cannot_be_are_refused_by_field(variants: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_variants(variants)
    assert caught.value.field == field


def test_a_version_is_named_by_its_digest_when_it_has_no_name() -> None:
    assert version_name("", "sha256:0123456789abcdef" + "0" * 48) == "0123456789ab"
    assert version_name("v1.2", digest(1)) == "v1.2"
    for wrong in ("", "-a", "a b", "a\n", "a" * 65, "ключ"):
        with pytest.raises(InvalidInput):
            version_name(wrong, "")


def test_the_digest_of_several_variants_does_not_depend_on_their_order() -> None:
    one, other = Variant("a", "x", digest(1)), Variant("b", "y", digest(2))
    assert content_digest([one]) == digest(1)
    assert content_digest([one, other]) == content_digest([other, one]) != digest(1)
    assert content_digest([one, other]) != content_digest([one, replace(other, digest=digest(3))])
    assert content_digest([Variant("a", "x", ""), Variant("b", "x", "")]) == ""


def test_no_roles_are_the_catalogues_own() -> None:
    assert next_roles(known(), RolesWish()) == Roles(revision=1)
