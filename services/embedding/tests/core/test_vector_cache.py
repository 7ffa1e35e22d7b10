"""The cache keeps what is used, within its bytes."""

from embedding.core.vector_cache import ENTRY_OVERHEAD_BYTES, Encoded, VectorCache

ENTRY = Encoded(bytes(70), 3)
SIZE = 70 + ENTRY_OVERHEAD_BYTES


def test_forgets_the_least_recently_used() -> None:
    cache = VectorCache(3 * SIZE)
    for key in (b"a", b"b", b"c"):
        cache.put(key, ENTRY)
    cache.get(b"a")
    cache.put(b"d", ENTRY)
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.get(key)] == [b"a", b"c", b"d"]


def test_a_key_counts_once() -> None:
    cache = VectorCache(2 * SIZE)
    for _ in range(5):
        cache.put(b"a", ENTRY)
    cache.put(b"b", ENTRY)
    assert len(cache) == 2


def test_without_memory_keeps_nothing() -> None:
    cache = VectorCache(0)
    cache.put(b"a", ENTRY)
    assert cache.get(b"a") is None
