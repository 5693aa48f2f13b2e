"""Pieces that go on past their end, as some peers' do."""

from __future__ import annotations

import math

from fastsched._check import LARGEST_STEP
from fastsched.kinds import Constant, Cosine, Linear, OneMinusSqrt
from fastsched.schedule import Schedule

MOST = 8  # 65,536 times the length is enough


def _far(steps: int) -> int:
    """How many times its length a piece goes on before it holds: a power of 4, so that its root is exact too."""
    return int(4 ** min(MOST, ((LARGEST_STEP // steps).bit_length() - 1) // 2))


def endless_line(start: float, end: float, steps: int) -> Schedule:
    """A straight line that is at ``end`` after ``steps`` steps and goes on."""
    times = _far(steps)
    far = start + (end - start) * times
    return Linear(start, far, steps=steps * times).then(Constant(far))


def endless_root(start: float, end: float, steps: int) -> Schedule:
    """``OneMinusSqrt`` that is at ``end`` after ``steps`` steps and goes on."""
    times = _far(steps)
    far = start + (end - start) * math.isqrt(times)
    return OneMinusSqrt(start, far, steps=steps * times).then(Constant(far))


def endless_cosine(start: float, end: float, steps: int) -> Schedule:
    """Half a cosine that is at ``end`` after ``steps`` steps, then rises to ``start``, and so on."""
    return Cosine(start, end, steps=2 * steps, cycles=1.0).repeat()
