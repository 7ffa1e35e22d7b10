"""Hit ratios that policies reach on a trace of models when they are replayed, beside which the pool's is put."""

from collections.abc import Callable, Sequence


def belady(trace: Sequence[str], room: int) -> float:
    """Return the hit ratio of evicting whatever is needed last, which needs to know the future."""
    return _replay(trace, room, lambda position, model: _next(trace, position, model))


def offline_lru(trace: Sequence[str], room: int) -> float:
    """Return the hit ratio of LRU with one request after the other."""
    return _replay(trace, room, lambda position, model: -_last(trace, position, model))


def timed_lru(arrivals: Sequence[tuple[float, str]], room: int, load_s: float) -> float:
    """Return the share of requests that find their model there at their moment, with LRU and loads of `load_s` seconds.

    It loads any number of models at once, and whoever goes is gone at once, which no server can.
    """
    ready_at: dict[str, float] = {}
    used_at: dict[str, float] = {}
    found = 0
    for moment, model in arrivals:
        if model in ready_at:
            found += ready_at[model] <= moment
        else:
            if len(ready_at) >= room:
                del ready_at[min(ready_at, key=lambda each: used_at[each])]
            ready_at[model] = moment + load_s
        used_at[model] = moment
    return found / len(arrivals)


def _replay(trace: Sequence[str], room: int, distance: Callable[[int, str], float]) -> float:
    inside: set[str] = set()
    hits = 0
    for position, model in enumerate(trace):
        if model in inside:
            hits += 1
            continue
        if len(inside) >= room:
            inside.remove(max(inside, key=lambda each, at=position: distance(at, each)))  # type: ignore[misc]
        inside.add(model)
    return hits / len(trace)


def _next(trace: Sequence[str], position: int, model: str) -> float:
    return next((at for at in range(position, len(trace)) if trace[at] == model), len(trace))


def _last(trace: Sequence[str], position: int, model: str) -> float:
    return next((at for at in range(position - 1, -1, -1) if trace[at] == model), -1)
