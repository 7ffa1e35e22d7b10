"""YAML: what is read, and what is refused before it can do harm."""

from decimal import Decimal

import pytest
from gateway.adapters.strict_yaml import DEEPEST, LARGEST_BYTES, YamlMistake, load
from hypothesis import given
from hypothesis import strategies as st

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n".encode()
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


READ = {
    "1": 1,
    "0.1": Decimal("0.1"),
    "-2.50": Decimal("-2.50"),
    "1e3": Decimal(1000),
    "0777": 777,
    "null": None,
    "true": True,
    "'5'": "5",
    **{word: word for word in ("no", "NO", "on", "1:30", "2024-01-01", "0x10", "1_000", ".inf", ".nan", "Null", "<<")},
}


@pytest.mark.parametrize("text", READ, ids=str)
def test_numbers_are_exact_and_words_stay_words(text: str) -> None:
    found = load(f"a: {text}".encode())["a"]
    assert found == READ[text]
    assert type(found) is type(READ[text])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "line 1: anchors and aliases are not allowed"),
        (b"a: &x 1\nb: 2", "line 1: anchors and aliases are not allowed"),
        (b"a: *x", "line 1: anchors and aliases are not allowed"),
        (b"a: 1\nb: 2\na: 3", "line 3: the key 'a' is there twice"),
        (b"x: {a: 1, 'a': 2}", "line 1: the key 'a' is there twice"),
        (b"a: !!python/object/apply:os.system [echo]", "line 1: tags are not allowed"),
        (b"a: !!int x", "line 1: tags are not allowed"),
        (b"a: ! x", "line 1: tags are not allowed"),
        (b"!!map {a: 1}", "line 1: tags are not allowed"),
        (b"1: a", "line 1: a key has to be a text; quote it"),
        (b"? [a]\n: b", "line 1: a key has to be a text; quote it"),
        (b"? {a: b}\n: b", "line 1: a key has to be a text; quote it"),
        (b"a: " + b"9" * 5000, "line 1: the number is too long"),
        (b"a: 0." + b"9" * 5000, "line 1: the number is too long"),
        (b"[" * (DEEPEST + 1), f"line 1: it is nested deeper than {DEEPEST} levels"),
        (b"[" * 100_000, "nested deeper"),
        (b"a: [", "line 2"),
        (b"a: 1\n--- \nb: 2", "document"),
        (b"a: \xff", "it is not UTF-8 at byte 3"),
        (b"a: \x00", "a character that may not be there"),
        (b"a: " + b"x" * LARGEST_BYTES, "it is larger than"),
        (b"%YAML 9.9\n---\na: 1", "incompatible YAML"),
        (b"a: 'x", "line 1"),
        (b"\ta: 1", "line 1"),
    ],
    ids=lambda each: repr(each)[:40],
)
def test_what_is_not_plain_is_refused_and_its_line_named(text: bytes, message: str) -> None:
    with pytest.raises(YamlMistake) as caught:
        load(text)
    assert message in str(caught.value)


def test_a_merge_key_is_a_key_like_others() -> None:
    assert load(b"<<: {a: 1}") == {"<<": {"a": 1}}


def test_a_byte_order_mark_is_no_mistake_and_nothing_is_nothing() -> None:
    assert load(b"\xef\xbb\xbfa: 1") == {"a": 1}
    assert load(b"") is None
    assert load(b"# only a comment") is None


@given(st.binary(max_size=200))
def test_whatever_is_sent_is_read_or_refused(raw: bytes) -> None:
    try:
        load(raw)
    except YamlMistake as error:
        assert str(error)


@given(st.text(alphabet="ab:-{}[],&*!|>'\"#%@`? \n0.e", max_size=80))
def test_whatever_looks_like_yaml_is_read_or_refused(text: str) -> None:
    try:
        load(text.encode())
    except YamlMistake as error:
        assert str(error)
