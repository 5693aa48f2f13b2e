"""Epochs, samples, tokens and fractions of a run as numbers of updates, and lrs for other batch sizes."""

from __future__ import annotations

import functools
import math
import re
from fractions import Fraction
from typing import Any

from fastsched._check import LARGEST_STEP, VALUE, Choice, Flag, Number, as_printed, is_number, nearest, shown

UNITS = ("ep", "ba", "sp", "tok", "dur")
_TIME = re.compile(r"\s*(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})((?:e[+-]?\d{1,2})?)\s*([a-z]\w*)\s*", re.IGNORECASE)
_WORDS = {"epochs": "ep", "samples": "sp", "tokens": "tok", "fraction": "dur"}

_COUNT = Number("pass how many there are", least=1, most=LARGEST_STEP, whole=True)
_OPTIONAL = _COUNT._replace(optional=True)
_RULES: dict[str, Number | Flag | Choice] = {
    "samples": _OPTIONAL,
    "batches": _OPTIONAL,
    "steps_per_epoch": _OPTIONAL,
    "batch_size": _OPTIONAL,
    "accumulation": _COUNT._replace(advice="an update after every batch is 1"),
    "world_size": _COUNT._replace(advice="a single process is 1"),
    "sequence_length": _OPTIONAL,
    "drop_last": Flag("pass what the DataLoader has"),
    "remainder": Choice(("step", "drop", "carry")),
}
_EPOCH = ("samples", "batches", "steps_per_epoch")


def parse_time(who: str, name: str, text: str) -> tuple[Fraction, str]:
    """The exact number and the unit of a time string such as ``"3ep"`` or ``"2.5e9tok"``; case does not matter."""
    advice = "pass a number and one of ep, ba, sp, tok or dur, such as '3ep'"
    if not isinstance(text, str):
        raise TypeError(f"{who}: {name} must be a time string, got {shown(text)}; {advice}")
    match = _TIME.fullmatch(text)
    unit = match[3].lower() if match else ""
    if not match or unit not in UNITS:
        raise ValueError(
            f"{who}: {name} must be in epochs, batches, samples, tokens or durations, got {shown(text)}; {advice} "
            "(seconds and iterations are no number of updates)"
        )
    return Fraction(match[1].rstrip(".") + match[2]), unit


def exact_number(who: str, name: str, value: Any) -> Fraction:
    """A number >= 0 as it prints: the float 0.1 is a tenth."""
    Number("pass how much of it", least=0)(who, name, nearest(value) if isinstance(value, Fraction) else value)
    return as_printed(value)


class Units:
    """How many updates an epoch, a sample, a token or a fraction of the run is: ``u.steps("3ep")`` is an int.

    The size of an epoch is one of ``samples`` (in the data set), ``batches`` (``len(loader)`` of one process) and
    ``steps_per_epoch``. ``batch_size`` is one process's samples in one forward pass, ``accumulation`` how many of those
    make an update, ``world_size`` how many processes share the data, ``sequence_length`` a sample's tokens. The run's
    length, which fractions refer to, is ``epochs`` or ``duration``: a number of updates or a composer time string.

    An update takes ``batch_size * accumulation * world_size`` samples. With ``drop_last`` an epoch's last incomplete
    batch is left out, as the DataLoader's argument of that name says; else it counts as a batch. What the batches of an
    epoch leave over of ``accumulation`` is, by ``remainder``, an update (``"step"``: transformers' Trainer, accelerate,
    Lightning), nothing (``"drop"``: plain loops that update where ``(i + 1) % accumulation == 0`` and clear the
    gradients at each epoch) or part of the next epoch's first update (``"carry"``: DeepSpeed's engine, and those plain
    loops that don't clear; ``steps_per_epoch`` is then a Fraction).

    All arithmetic is exact, floats counting as the decimals that they print as; the one rounding is to whole updates,
    upwards: a horizon covers what was asked for. (transformers rounds its warmup ratio up too; composer cuts off and
    torchtitan rounds, and ``fs.compat`` does as they do.) Errors: ``ValueError`` that names what is missing or given
    twice.

    >>> u = Units(samples=50_000, batch_size=64, accumulation=2, world_size=8, epochs=90)
    >>> u.samples_per_step, u.steps_per_epoch, u.total
    (1024, 49, 4410)
    >>> u.steps("5ep"), u.steps(samples=1e6), u.steps(fraction=0.1)
    (245, 977, 441)
    >>> s = Cosine(steps=u.total - u.steps("5ep")).warmup(u.steps("5ep"))
    >>> s(0), s(245), s(4410)
    (0.0, 1.0, 0.0)
    """

    __slots__ = ("_arguments", "_steps_per_epoch", "_total")

    _arguments: dict[str, Any]
    _steps_per_epoch: Fraction | None
    _total: int | None

    def __init__(
        self,
        *,
        samples: int | None = None,
        batches: int | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int | None = None,
        accumulation: int = 1,
        world_size: int = 1,
        sequence_length: int | None = None,
        epochs: float | Fraction | None = None,
        duration: int | str | None = None,
        drop_last: bool = False,
        remainder: str = "step",
    ) -> None:
        given = {
            "samples": samples,
            "batches": batches,
            "steps_per_epoch": steps_per_epoch,
            "batch_size": batch_size,
            "accumulation": accumulation,
            "world_size": world_size,
            "sequence_length": sequence_length,
            "drop_last": drop_last,
            "remainder": remainder,
        }
        arguments = {name: rule("Units", name, given[name]) for name, rule in _RULES.items()}
        arguments |= {"epochs": epochs, "duration": duration}
        for names in (_EPOCH, ("epochs", "duration")):
            several = " and ".join(name for name in names if arguments[name] is not None)
            if " and " in several:
                choice = ", ".join(names)
                raise ValueError(f"Units: at most one of {choice} must be given, got {several}; leave one out")
        self._put(_arguments=arguments, _total=None)
        self._put(_steps_per_epoch=self._epoch())
        self._put(_total=self._run())

    def _put(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _epoch(self) -> Fraction | None:
        """The updates of an epoch."""
        given = self._arguments
        if given["steps_per_epoch"] is not None:
            return Fraction(given["steps_per_epoch"])
        batches = given["batches"]
        if given["samples"] is not None:
            of_all = Fraction(given["samples"], self._need("batch_size", "samples") * given["world_size"])
            batches = math.floor(of_all) if given["drop_last"] else math.ceil(of_all)
        if batches is None:
            return None
        exact = Fraction(batches, given["accumulation"])
        if given["remainder"] != "carry":
            exact = Fraction(math.ceil(exact) if given["remainder"] == "step" else math.floor(exact))
        if exact == 0:
            raise ValueError(
                f"Units: an epoch must have an update, got {batches} batches and accumulation {given['accumulation']}; "
                "pass a smaller batch_size or accumulation, drop_last=False or remainder='step'"
            )
        return exact

    def _run(self) -> int | None:
        """The updates of the run."""
        epochs, duration = self._arguments["epochs"], self._arguments["duration"]
        if epochs is not None:
            total = self.steps(epochs=epochs)
        elif isinstance(duration, str):
            if parse_time("Units", "duration", duration)[1] == "dur":
                raise ValueError(
                    f"Units: duration must not be a fraction of itself, got {shown(duration)}; pass updates or '3ep'"
                )
            total = self.steps(duration)
        else:
            return _OPTIONAL("Units", "duration", duration)  # type: ignore[no-any-return]
        return _COUNT._replace(advice="pass a longer run")("Units", "the run's steps", total)  # type: ignore[no-any-return]

    def _need(self, name: str, what: str) -> int:
        value: int | None = self._arguments[name]
        if value is None:
            raise ValueError(f"Units: {name} must be given to count {what}, got None; pass Units({name}=...)")
        return value

    @property
    def samples_per_step(self) -> int:
        """The samples of one update, over all processes: the global batch size."""
        accumulation, world_size = self._arguments["accumulation"], self._arguments["world_size"]
        return self._need("batch_size", "samples") * accumulation * world_size  # type: ignore[no-any-return]

    @property
    def tokens_per_step(self) -> int:
        """The tokens of one update, over all processes."""
        return self._need("sequence_length", "tokens") * self.samples_per_step

    @property
    def steps_per_epoch(self) -> int | Fraction:
        """The updates of one epoch: an int, or with ``remainder="carry"`` perhaps a Fraction."""
        exact = self._steps_per_epoch
        if exact is None:
            raise ValueError(
                "Units: the size of an epoch must be given to count epochs, got none; "
                "pass Units(samples=...), batches=... or steps_per_epoch=..."
            )
        return int(exact) if exact.denominator == 1 else exact

    @property
    def total(self) -> int:
        """The updates of the whole run."""
        if self._total is None:
            raise ValueError(
                "Units: the run's length must be given, got none; pass Units(epochs=...) or Units(duration='2e9tok')"
            )
        return self._total

    def steps(
        self,
        time: int | str | None = None,
        /,
        *,
        epochs: float | Fraction | None = None,
        samples: float | Fraction | None = None,
        tokens: float | Fraction | None = None,
        fraction: float | Fraction | None = None,
    ) -> int:
        """A time as whole updates, rounded up. Pass exactly one.

        ``time`` is a number of updates, or a composer time string: a number with ``ep`` (epochs), ``ba`` (batches:
        updates), ``sp`` (samples), ``tok`` (tokens) or ``dur`` (fraction of the run). Errors: ``ValueError`` for a
        negative time, an unknown unit, or something missing in the `Units`.

        >>> u = Units(batch_size=8, sequence_length=2048, duration="1e9tok")
        >>> u.total, u.steps("0.01dur"), u.steps(tokens=20e6)
        (61036, 611, 1221)
        """
        who = "Units.steps"
        words = {"epochs": epochs, "samples": samples, "tokens": tokens, "fraction": fraction}
        given = [name for name, value in words.items() if value is not None]
        if len(given) + (time is not None) != 1:
            names = ", ".join([*["a time"] * (time is not None), *given]) or "nothing"
            raise ValueError(f"{who}: exactly one time must be given, got {names}; pass '3ep' or epochs=3")
        if is_number(time):
            return Number("count updates", least=0, most=LARGEST_STEP, whole=True)(who, "time", time)  # type: ignore[no-any-return]
        if time is not None:
            value, unit = parse_time(who, "time", time)  # type: ignore[arg-type]
        else:
            value, unit = exact_number(who, given[0], words[given[0]]), _WORDS[given[0]]
        exact = math.ceil(value * self._updates(unit))
        if exact > LARGEST_STEP:
            raise ValueError(f"{who}: the time must be at most 2**53 updates, got {shown(exact)}; pass a shorter one")
        return exact

    def _updates(self, unit: str) -> Fraction:
        """The updates of one unit."""
        if unit == "ep":
            return Fraction(self.steps_per_epoch)
        if unit == "sp":
            return Fraction(1, self.samples_per_step)
        if unit == "tok":
            return Fraction(1, self.tokens_per_step)
        return Fraction(self.total) if unit == "dur" else Fraction(1)

    def __repr__(self) -> str:
        defaults = Units.__init__.__kwdefaults__ or {}
        given = (f"{name}={value!r}" for name, value in self._arguments.items() if value != defaults[name])
        return f"Units({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and self._arguments == other._arguments

    def __hash__(self) -> int:
        return hash(tuple(self._arguments.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Units, **self._arguments), ()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Units is immutable: make another one instead of setting {name}")


_SCALING = Choice(("linear", "sqrt"))


def batch_scaled_lr(lr: float, batch_size: int, base_batch_size: int, rule: str = "linear") -> float:
    """The lr for another batch size: ``lr * r`` (linear) or ``lr * sqrt(r)``, ``r = batch_size / base_batch_size``.

    ``lr`` is what works with batches of ``base_batch_size``; both sizes are samples of one update over all processes
    (``Units.samples_per_step``). The rules hold within a range, and outside it lr must be searched anew:

    - ``"linear"`` is for SGD with momentum. On ImageNet (ResNet-50, lr 0.1 for 256) it holds up to about 8,000 images,
      with a warmup over the first 5 epochs; accuracy is lost beyond. In general it holds while batches are small beside
      the gradient noise scale; near that size a larger lr gains less and less, and then diverges.
    - ``"sqrt"`` keeps the variance of an update; it is the rule for Adam, RMSprop and their like, as long as gradients
      are mostly noise. In theory ``1 - beta1`` and ``1 - beta2`` then grow with ``r``, and eps with ``1/sqrt(r)``.

    Errors: ``ValueError`` for a size below 1, a negative lr or another rule.
    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017 (linear); Krizhevsky, One Weird Trick for Parallelizing
    Convolutional Neural Networks, 2014, and Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient
    Algorithms, 2022 (square root); McCandlish et al., An Empirical Model of Large-Batch Training, 2018 (noise scale).

    >>> batch_scaled_lr(0.1, 8192, 256), batch_scaled_lr(3e-4, 1024, 256, rule="sqrt")
    (3.2, 0.0006)
    """
    who = "batch_scaled_lr"
    base = Number("pass the lr of the base batch size", least=0)(who, "lr", lr)
    ratio = Fraction(_COUNT(who, "batch_size", batch_size), _COUNT(who, "base_batch_size", base_batch_size))
    linear = _SCALING(who, "rule", rule) == "linear"
    scaled = nearest(Fraction(base) * ratio) if linear else base * math.sqrt(ratio)
    return VALUE(who, "the scaled lr", scaled)  # type: ignore[no-any-return]
