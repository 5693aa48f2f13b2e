"""torchtitan's schedule by the fields of its ``lr_scheduler`` config."""

from __future__ import annotations

from fastsched._check import VALUE, Choice, Number
from fastsched.compat._endless import endless_cosine, endless_line, endless_root
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import chain
from fastsched.kinds import Constant, Linear
from fastsched.schedule import Schedule

__all__ = ["LRSchedulersContainer"]

_DECAYS = {"linear": endless_line, "sqrt": endless_root, "cosine": endless_cosine}


@peer
def LRSchedulersContainer(
    group: Group,
    warmup_steps: int = 200,
    total_steps: int | None = None,
    decay_ratio: float | None = None,
    decay_type: str = "linear",
    min_lr_factor: float = 0.0,
) -> Schedule:
    """Warmup, a stay, and a decay over the last ``decay_ratio`` of the run (None: all that the warmup leaves).

    Update t of the warmup uses ``(t+1)/warmup_steps``, so the first one is no waste and the peak is there at
    ``warmup_steps - 1``. The decay is shifted by one the other way: with D decay steps of T it begins at T - D, where
    the lr is still the peak, and the last update of the run is at 1/D of the way to the end: ``min_lr_factor`` is
    reached at T, by no update. D is ``round(T * decay_ratio)``, cut to what the warmup leaves. Past T a line and a root
    go on below the floor and below 0, for 65,536 times D; a cosine rises again. Where the peer fails after a warmup of
    the whole run, ours stays at the peak. T is ``total_steps``, or ``context={"training_steps": T}``.

    Composition: a `Linear` warmup, `Constant`, and `Linear`, `OneMinusSqrt` or `Cosine`, times the base lr.

    >>> s = LRSchedulersContainer(1.0, warmup_steps=10, total_steps=100, decay_ratio=0.16)
    >>> s(0), s(9), s(84), s(99), s(100)
    (0.1, 1.0, 1.0, 0.0625, 0.0)
    """
    who = group.who
    if total_steps is None:
        total_steps = group.need("training_steps", "1000")
    total = group.whole("total_steps", total_steps, 1)
    warmup = min(group.whole("warmup_steps", warmup_steps), total)
    floor = VALUE(who, "min_lr_factor", min_lr_factor)
    decay = total - warmup
    if decay_ratio is not None:
        share = Number("pass the share of the run", least=0)(who, "decay_ratio", decay_ratio)
        decay = min(decay, round(total * share))
    curve = _DECAYS[Choice(tuple(_DECAYS))(who, "decay_type", decay_type)]
    pieces = [curve(1.0, floor, decay) if decay else Constant(1.0)]
    if stable := total - decay - max(warmup - 1, 0):
        pieces.insert(0, Constant(1.0, steps=stable))
    if warmup > 1:
        pieces.insert(0, Linear(1.0 / warmup, 1.0, steps=warmup - 1))
    return chain(pieces) * float(group.base)
