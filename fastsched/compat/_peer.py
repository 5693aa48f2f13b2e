"""What every peer's schedule has in common: one function serves one group; here it is called for each of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, overload

from fastsched._check import VALUE, is_number, shown
from fastsched.kinds import Constant, tabulate
from fastsched.schedule import Schedule

# What a schedule may depend on beside its arguments. `steps` is the horizon of a callable.
CONTEXT = (
    *("optimizer", "drive", "lr_scale", "group_overrides", "steps", "training_steps", "increment"),
    *("max_iter", "n", "n_epoch", "n_iter", "max_duration", "dataloader_len", "ssr", "batch_size", "sequence_length"),
)
HYPERPARAMETERS = ("lr", "momentum", "weight_decay")


@dataclass(frozen=True)
class Part:
    """What a peer made. A peer that can say how it acts within a composition returns a subclass."""

    schedule: Schedule  # its values where it stands alone


@dataclass(frozen=True)
class Unchanged(Part):
    """A part that leaves the hyperparameter alone, in a composition whose other parts may change it."""


@dataclass(frozen=True)
class Group:
    """One parameter group as a peer's scheduler finds it."""

    who: str  # the peer's name, for messages
    base: Any  # its lr: a float, or None where the arguments hold absolute values
    index: int = 0
    count: int = 1
    hyperparameter: str = "lr"
    context: Mapping[str, Any] = field(default_factory=dict)
    bases: tuple[Any, ...] = ()  # of all groups
    inner: bool = False  # it is within a composition
    later: bool = False  # and others have been made for it before

    def own(self, name: str, value: Any) -> Any:
        """This group's part of an argument that may be one for all or a list with one per group."""
        if not isinstance(value, (list, tuple)):
            return value
        if len(value) != self.count:
            raise ValueError(
                f"{self.who}: {name} must have one value per group, got {len(value)} for {self.count}; "
                "pass one value for all, or as many as groups"
            )
        return value[self.index]

    def need(self, name: str, what: str) -> Any:
        """A part of the context that the peer cannot do without."""
        if self.context.get(name) is None:
            raise ValueError(f"{self.who}: context must have {name!r}, got none; pass context={{{name!r}: {what}}}")
        return self.context[name]

    def whole(self, name: str, value: Any, least: int = 0) -> int:
        """A number of steps; a float that is one counts."""
        if not is_number(value):
            raise TypeError(f"{self.who}: {name} must be an int, got {shown(value)}; pass a number of steps")
        if not value >= least or value != value // 1:
            raise ValueError(f"{self.who}: {name} must be a whole number >= {least}, got {shown(value)}; round it")
        return int(value)

    def function(self, name: str, function: Any) -> Schedule:
        """A function of the step: a schedule as it is, any other as `Samples` of ``context["steps"]`` values."""
        if isinstance(function, Schedule):
            return function
        if not callable(function):
            raise TypeError(f"{self.who}: {name} must be a function, got {shown(function)}; strings are not evaluated")
        return tabulate(function, self.need("steps", "1000"))

    def follows_metric(self, instead: str = "use fs.lr_scheduler.ReduceLROnPlateau with the optimizer") -> ValueError:
        """What to raise for a peer that is no function of the step."""
        return ValueError(
            f"{self.who}: a schedule must be a function of the step, got one of a metric or of the optimizer's state; "
            f"{instead}"
        )

    def part(self, function: Any, *bases: float, later: bool = False, some: bool = False) -> Part:
        """A part of a composition: what ``function`` makes of this group's base lr.

        Peers that it calls serve this group: lists with one value per group, hyperparameter and context go to them.
        With ``some``, those that do not change the hyperparameter make `Unchanged`.
        """
        if isinstance(function, Schedule):
            return Part(function)
        if not callable(function):
            raise TypeError(
                f"{self.who}: a part must be a function of the base lr, got {shown(function)}; "
                "pass lambda lr: fs.compat.torch.StepLR(lr, 30)"
            )
        made: list[Part] = []
        token = _composition.set((replace(self, inner=True, later=later), made, some))
        try:
            schedule = function(*bases)
        finally:
            _composition.reset(token)
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"{self.who}: a part must return a Schedule, got {shown(schedule)}; call a peer of one group"
            )
        return next((part for part in made if part.schedule is schedule), Part(schedule))


# The group whose composition calls peers right now, what these made, and `Group.part`'s some.
_composition: ContextVar[tuple[Group, list[Part], bool] | None] = ContextVar("composition", default=None)


@overload
def peer(function: Callable[..., Schedule | Part]) -> Callable[..., Any]: ...


@overload
def peer(
    *, base: bool = True, hyperparameters: Sequence[str] = ("lr",)
) -> Callable[[Callable[..., Schedule | Part]], Callable[..., Any]]: ...


def peer(
    function: Callable[..., Schedule | Part] | None = None,
    *,
    base: bool = True,
    hyperparameters: Sequence[str] = ("lr",),
) -> Any:
    """Makes a peer's public name from a function of a `Group` and the peer's own arguments.

    The public function takes the groups' base lr in place of the optimizer (``base=False``: the peer has none, and
    all values are in its arguments), a number or one per group, for which it returns a list; then the peer's
    arguments, and as keywords ``hyperparameter`` and ``context``.
    """
    if function is None:
        return functools.partial(peer, base=base, hyperparameters=hyperparameters)
    name = function.__name__
    arguments = inspect.signature(function)
    own = list(arguments.parameters.values())[1:]
    keywords = [
        inspect.Parameter("hyperparameter", inspect.Parameter.KEYWORD_ONLY, default="lr", annotation="str"),
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Mapping | None"),
    ]
    instead = "lr" if "base_lr" in arguments.parameters else "base_lr"
    first = inspect.Parameter(instead, inspect.Parameter.POSITIONAL_ONLY, annotation="float | Sequence[float]")
    plain = [p for p in own if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in own if p.kind is inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(function)
    def public(*args: Any, **kwargs: Any) -> Any:
        outer, made, some = _composition.get() or (Group(name, None), [], False)
        hyperparameter = kwargs.pop("hyperparameter", outer.hyperparameter)
        context = kwargs.pop("context", outer.context)
        if some and hyperparameter == outer.hyperparameter and hyperparameter not in hyperparameters:
            made.append(Unchanged(Constant(0.0)))
            return made[-1].schedule
        _check_hyperparameter(name, hyperparameter, hyperparameters)
        context = _checked_context(name, context)
        if base:
            if not args:
                raise TypeError(f"{name}: base_lr must be given first, in the optimizer's place; pass the group's lr")
            bases, several = _bases(name, args[0])
            args = args[1:]
        else:
            bases, several = _without_base(name, context)
        try:
            arguments.bind(None, *args, **kwargs)
        except TypeError as error:
            names = ", ".join(p.name for p in own)
            raise TypeError(f"{name}: {error}; its arguments are {names}") from None
        everyone = bases if several or not outer.bases else outer.bases
        parts = []
        for index, lr in enumerate(bases):
            place = (index, len(bases)) if several else (outer.index, outer.count)
            group = Group(name, lr, *place, hyperparameter, context, tuple(everyone), outer.inner, outer.later)
            parts.append(_named(name, function, group, args, kwargs))
        made += parts
        return [part.schedule for part in parts] if several else parts[0].schedule

    public.__signature__ = arguments.replace(  # type: ignore[attr-defined]
        parameters=[*([first] if base else []), *plain, *keywords, *rest], return_annotation="Schedule"
    )
    public.__annotations__ = {}
    public.takes_base = base  # type: ignore[attr-defined]
    return public


def _named(name: str, function: Callable[..., Schedule | Part], group: Group, args: Any, kwargs: Any) -> Part:
    """What the function returns; an error of a kind that it is made of begins with the peer's name."""
    try:
        made = function(group, *args, **kwargs)
        return made if isinstance(made, Part) else Part(made)
    except (ValueError, TypeError) as error:
        text = str(error)
        if text.startswith(f"{name}:"):
            raise
        raise type(error)(f"{name}: {text}") from None


def _check_hyperparameter(name: str, hyperparameter: Any, served: Sequence[str]) -> None:
    if hyperparameter not in served:
        known = " or ".join(map(repr, served))
        why = "the peer changes no other" if hyperparameter in HYPERPARAMETERS else "pass a known one"
        raise ValueError(f"{name}: hyperparameter must be {known}, got {shown(hyperparameter)}; {why}")


def _checked_context(name: str, context: Any) -> Mapping[str, Any]:
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        raise TypeError(f"{name}: context must be a dict, got {shown(context)}; pass context={{'steps': 1000}}")
    for key in context:
        if key not in CONTEXT:
            raise ValueError(f"{name}: context must have known keys, got {shown(key)}; pass " + ", ".join(CONTEXT))
    optimizer = context.get("optimizer")
    if optimizer is not None and not isinstance(optimizer, Mapping):
        raise TypeError(
            f"{name}: context's optimizer must be a dict, got {shown(optimizer)}; pass what matters of its "
            "defaults, such as {'momentum': 0.9}"
        )
    return context


def _bases(name: str, base: Any) -> tuple[list[float | None], bool]:
    """The groups' base lrs, and whether a list was given."""
    if isinstance(base, (list, tuple)):
        if not base:
            raise ValueError(f"{name}: base_lr must have at least one group, got none; pass the groups' lrs")
        return [VALUE(name, f"base_lr[{i}]", lr) for i, lr in enumerate(base)], True
    if not is_number(base):
        raise TypeError(
            f"{name}: base_lr must be a number or a list of them, got {shown(base)}; "
            "pass the group's lr where the peer takes the optimizer"
        )
    return [VALUE(name, "base_lr", base)], False


def _without_base(name: str, context: Mapping[str, Any]) -> tuple[list[float | None], bool]:
    """Groups of a peer whose arguments hold absolute values: as many as have overrides."""
    overrides = context.get("group_overrides")
    if overrides is None:
        return [None], False
    if not isinstance(overrides, (list, tuple)) or not all(isinstance(own, Mapping) for own in overrides):
        raise TypeError(f"{name}: group_overrides must be a list of dicts, got {shown(overrides)}; pass one per group")
    return [None] * len(overrides), True
