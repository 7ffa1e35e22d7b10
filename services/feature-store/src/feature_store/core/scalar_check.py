"""Says whether a value fits the type that the definitions give it."""

import math

from feature_store.core.catalogue import PYTHON, Scalar, ScalarType

_EXACT_INT = 2**53  # above it a double no longer holds every integer (IEEE 754)


class WrongType(ValueError):
    """The value does not fit; the message says why, without the value."""


def fit(value: Scalar, expected: ScalarType) -> Scalar:
    """Return the value as the type expected, without loss; raise WrongType."""
    if expected is ScalarType.DOUBLE:
        return _fit_double(value)
    if type(value) is not PYTHON[expected]:
        raise WrongType(f"must be of type {expected.value}")
    return value


def _fit_double(value: Scalar) -> float:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WrongType("is not a finite number")
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _EXACT_INT:
        return float(value)
    raise WrongType("must be of type double")
