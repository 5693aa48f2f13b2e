"""Layer-wise learning rates: from a torch model to parameter groups, found by the model's structure."""

from __future__ import annotations

import fnmatch
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from numbers import Real
from typing import Any

import torch
from torch import nn

__all__ = ["LayerGroups", "layerwise"]

# What a parameter outside the blocks is, told by a part of its path. Head first: `embed_out` is one.
_HEAD = re.compile(
    r"heads?|(\w+_)?head(_\w+)?|cls|fc(_\w+)?|(\w+_)?classifier|pooler|score|logits?(_\w+)?|(\w+_)?pred(ictions?)?|embed_out"
)
_EMBEDDING = re.compile(
    r"(\w+_)?(embed|embeds|embedding|embeddings|emb|token|tokens|wte|wpe|stem)(_\w+)?"
    r"|feature_(extractor|projection)|rel_pos_bias|relative_position_bias(_\w+)?"
)
_FINAL = re.compile(r"final_\w+|ln_f|norm_f")  # a norm after the blocks, wherever it is registered
_STACK = re.compile(r"(\w+_)?(encoder|decoder)")
_SIDE = re.compile(r"(\w+_)?(encoder|decoder)(_\w+)?")
_BLOCK_LIST = re.compile(r"(\w+_)?(blocks?|layers?|h)#?")  # a list by its name, even of one block
_INNER_LIST = re.compile(r"(\w+_)?(blocks|layers)")  # one that a stage has
# Modules that hold nothing but the trunk: what they have past the last block is no head (a last convolution, say).
_TRUNK = re.compile(r"(\w+_)?(encoder|decoder|features|blocks?|layers?|stages?)")
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_WITH_PREVIOUS = 99999.0  # timm's mark in a group_matcher for what joins the layer before it
_SHOWN = 40  # groups that a table shows in full; of more, the first and the last


class LayerGroups(list[dict[str, Any]]):
    """Torch parameter groups, as a list that any optimizer takes; printing it shows a table.

    Each group has exactly the keys `name`, `params`, `lr` and `weight_decay`. An optimizer keeps the
    dictionaries it is given, so build a new list for each optimizer.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, layers: Mapping[str, str] | None = None) -> None:
        super().__init__(groups)
        self._lr = lr
        self._layers = dict(layers or {})  # by the group's name: the layer's number, or the numbers' range

    def summary(self, *, rows: int | None = _SHOWN) -> str:
        """Return one line per group (layer, scale, lr, weight decay, tensors, elements) and the totals.

        Layer 0 is the deepest; the scale is the group's lr over the head's. Of more than `rows` groups the table
        shows the first and the last, and one line for those between; None shows all.

        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
        >>> print(layerwise(model, 0.1, decay=0.5, weight_decay=0.01).summary())
        group       layer   scale         lr  weight decay  tensors  elements
        0.decay         0  0.2500  2.500e-02          0.01        1         4
        1.decay         1  0.5000  5.000e-02          0.01        1         4
        2.decay         2  1.0000  1.000e-01          0.01        1         2
        2.no_decay      2  1.0000  1.000e-01             0        1         1
        4 groups, 4 tensors, 11 elements
        """
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int)):
            raise TypeError(f"summary: rows must be an int or None, got {type(rows).__name__}")
        if rows is not None and rows < 2:
            raise ValueError(f"summary: rows must be >= 2, got {rows}; for all rows use None")
        hidden = 0 if rows is None else max(0, len(self) - rows)
        first = (len(self) - hidden + 1) // 2
        lines = _aligned([_HEADING, *map(self._row, (*self[:first], *self[first + hidden :]))])
        if hidden:
            lines.insert(1 + first, f"... {hidden} more groups, {_totals(self[first : first + hidden])} ...")
        return "\n".join([*lines, f"{len(self)} groups, {_totals(self)}"])

    def _row(self, group: dict[str, Any]) -> list[str]:
        scale = group["lr"] / self._lr if self._lr > 0.0 else math.nan
        shown = "-" if math.isnan(scale) else f"{scale:.4f}" if scale >= 0.001 else f"{scale:.1e}"
        place = [group["name"], self._layers.get(group["name"], "-"), shown]
        return [*place, f"{group['lr']:.3e}", f"{group['weight_decay']:g}", *_sizes([group])]

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:  # list's own would print every tensor's contents
        return f"<LayerGroups: {len(self)} groups, {_sizes(self)[1]} parameters>"


_HEADING = ["group", "layer", "scale", "lr", "weight decay", "tensors", "elements"]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Lay the rows out in columns, the first to the left and the others to the right."""
    name_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([name.ljust(name_width), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for name, *cells in rows
    ]


def _totals(groups: Iterable[dict[str, Any]]) -> str:
    tensors, elements = _sizes(groups)
    return f"{tensors} tensors, {elements} elements"


def _sizes(groups: Iterable[dict[str, Any]]) -> list[str]:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return [str(len(parameters)), f"{sum(parameter.numel() for parameter in parameters):,}"]


def layerwise(
    model: nn.Module,
    lr: float,
    *,
    decay: float = 0.75,
    weight_decay: float = 0.05,
    min_scale: float = 0.0,
    no_weight_decay: Iterable[str] | None = None,
    per_parameter: bool = False,
    layers: Mapping[str, int] | Callable[[str], int | None] | None = None,
    freeze_below: float = 0.0,
    overrides: Mapping[str | re.Pattern[str], Mapping[str, float]] | None = None,
    merge: bool = False,
) -> LayerGroups:
    """Parameter groups whose learning rate shrinks with the distance from the head.

    A tensor of layer `i` gets `lr * max(min_scale, decay ** (top - i))`. Layer 0 holds the embeddings
    (what comes before the blocks, and tokens and position tables wherever they are registered), layers
    1 to N are the blocks, and the head on top of them has scale 1. A final norm belongs to the last
    block, unless it is the head's own (`fc_norm`); what lies between two blocks (downsampling) to the one
    that follows. Without a head, or with one whose weight is tied to the embeddings, the last block has
    scale 1. These are the scales and the split of timm's `param_groups_layer_decay`.

    A model that has timm's `group_matcher` is asked for its layers. In any other the blocks are found by
    structure: an `nn.ModuleList` or `nn.Sequential` of modules of one class, at any depth of the model; the
    lists of a model's stages (ResNet, Swin) count on. Lists in different modules (encoder and decoder, the
    two towers of CLIP) are different stacks: each counts down from its own last block, one step below the
    head, to its own embeddings, and embeddings that they share are as deep as the deeper stack's. Either
    stack is one step away from the loss: cross attention reads the encoder's last block in every block of
    the decoder. Wrappers (DDP, `torch.compile`) leave names and layers as they are.

    Args:
        model: any torch module with such a list.
        lr: the head's learning rate, >= 0.
        decay: the ratio between neighbouring layers, in (0, 1].
        weight_decay: for matrices and everything of more dimensions; biases, norms and 1-d tensors get 0.
        min_scale: no layer's scale falls below it, in [0, 1].
        no_weight_decay: further names without weight decay: whole names or their ends, so that
            `"pos_embed"` is also `vit.pos_embed`, and globs of either (`"pos_embed.*"`). None asks
            `model.no_weight_decay()` where the model has that method.
        per_parameter: one group per tensor, named after it, for recipes that tune single tensors. By
            default there are up to two groups per layer, `<layer>.decay` and `<layer>.no_decay`.
        layers: the layers yourself, where structure does not tell: numbers from 0 on, the largest of which
            has scale 1. Either a mapping from a module's path, or a parameter's name, to its number (the
            longest path that fits counts), or a function of a parameter's name.
        freeze_below: layers whose scale is smaller are frozen: `requires_grad` of their parameters becomes False,
            in the model itself, and no group has them, whatever `overrides` says; in [0, 1]. An error freezes nothing.
        overrides: values for single parameters: by pattern, a mapping with `lr` (as it stands, not scaled),
            `weight_decay`, or both. A pattern is a glob (`"*.bias"`; a star matches dots too) or a compiled
            regular expression; it must match a parameter's whole name. Of several that match, later ones
            win. The groups' names end in the patterns: `head.no_decay[*.bias]`.
        merge: join groups of the same lr and weight decay. The first one's name stays: `a + 2 more`.

    Returns:
        A list of groups with exactly the keys name, params, lr (scaled) and weight_decay. Every trainable
        tensor is in one of them; frozen ones are left out; a tensor under two names counts once, under
        its first (`overrides` may call it by either). Printed, the list is a table: see `LayerGroups.summary`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, a pattern that matches nothing, nothing to train, or layers
            that cannot be told apart; the message has the names that have no layer.

    Source: Clark et al., ELECTRA (arXiv 2003.10555); Bao et al., BEiT (arXiv 2106.08254).

    >>> from torch import nn
    >>> block = lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    >>> model = nn.Sequential(nn.Linear(2, 4), nn.Sequential(block(), block()), nn.Linear(4, 3))
    >>> [(group["name"], group["lr"]) for group in layerwise(model, 1.0, decay=0.5) if group["weight_decay"]]
    [('embeddings.decay', 0.125), ('1.0.decay', 0.25), ('1.1.decay', 0.5), ('head.decay', 1.0)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"layerwise: model must be a torch.nn.Module, got {type(model).__name__}")
    lr = _number("lr", lr, 0.0, math.inf)
    decay = _number("decay", decay, 0.0, 1.0)
    if decay == 0.0:
        raise ValueError("layerwise: decay must be in (0, 1], got 0.0; for the head alone, freeze the rest")
    weight_decay = _number("weight_decay", weight_decay, 0.0, math.inf)
    min_scale = _number("min_scale", min_scale, 0.0, 1.0)
    freeze_below = _number("freeze_below", freeze_below, 0.0, 1.0)
    model = _unwrapped(model)
    exempt = _exempt(model, no_weight_decay)
    override_of = _overrides(model, overrides or {})

    depths, labels = _layers(model, layers)
    top = max(depths.values())
    groups: dict[str, dict[str, Any]] = {}
    numbers: dict[str, str] = {}
    frozen = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = max(min_scale, decay ** depths[name])
        if scale < freeze_below:
            frozen.append(parameter)
            continue
        decays = not (parameter.ndim <= 1 or name.endswith(".bias") or _in_norm(model, name) or exempt(_plain(name)))
        patterns, values = override_of(name)
        values = {"lr": lr * scale, "weight_decay": weight_decay if decays else 0.0} | values
        key = _plain(name) if per_parameter else f"{labels[name]}.{'decay' if decays else 'no_decay'}{patterns}"
        group = groups.setdefault(key, {"name": key, "params": [], **values})
        group["params"].append(parameter)
        numbers[key] = str(top - depths[name])
    if not groups:
        what = "is left by freeze_below; lower it" if frozen else "trains, got none; set requires_grad on some"
        raise ValueError(f"layerwise: the model must have a parameter that {what}")
    for parameter in frozen:
        parameter.requires_grad_(False)
    return _merged(groups, lr, numbers) if merge else LayerGroups(groups.values(), lr, numbers)


def _merged(groups: Mapping[str, dict[str, Any]], lr: float, numbers: Mapping[str, str]) -> LayerGroups:
    """Join the groups that have the same lr and weight decay."""
    alike: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for group in groups.values():
        alike.setdefault((group["lr"], group["weight_decay"]), []).append(group)
    joined, ranges = [], {}
    for parts in alike.values():
        name = parts[0]["name"] + (f" + {len(parts) - 1} more" if len(parts) > 1 else "")
        joined.append(parts[0] | {"name": name, "params": [p for part in parts for p in part["params"]]})
        held = sorted({int(numbers[part["name"]]) for part in parts})
        ranges[name] = f"{held[0]}" if len(held) == 1 else f"{held[0]}-{held[-1]}"
    return LayerGroups(joined, lr, ranges)


# Which layer a parameter is in. Below, a depth is the number of layers above: 0 for the head.


def _layers(
    model: nn.Module, layers: Mapping[str, int] | Callable[[str], int | None] | None
) -> tuple[dict[str, int], dict[str, str]]:
    """Give every parameter's depth and its layer's label, both by its name."""
    numbers = _matched(model) if layers is None else _numbered(model, layers)
    if numbers is None:
        placed = _placed(model)
        least = min(depth for depth, _ in placed.values())
        return {n: depth - least for n, (depth, _) in placed.items()}, {n: label for n, (_, label) in placed.items()}
    top = max(numbers.values())
    return {n: top - number for n, number in numbers.items()}, {n: f"layer_{k}" for n, k in numbers.items()}


def _numbered(model: nn.Module, layers: Mapping[str, int] | Callable[[str], int | None]) -> dict[str, int]:
    """Ask the caller's mapping or function."""
    if not isinstance(layers, Mapping) and not callable(layers):
        raise TypeError(f"layerwise: layers must be a mapping or a function, got {type(layers).__name__}")
    number_of = _by_path(model, layers) if isinstance(layers, Mapping) else layers
    given: dict[str, Any] = {name: number_of(_plain(name)) for name, _ in model.named_parameters()}
    for name, number in given.items():
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise TypeError(f"layerwise: layers must give ints, got {type(number).__name__} for {name}")
        if number is not None and number < 0:
            raise ValueError(f"layerwise: layers must give numbers >= 0, got {number} for {name}")
    numbers = {name: number for name, number in given.items() if number is not None}
    if len(numbers) < len(given) or not given:
        missing = _listed(name for name in given if name not in numbers)
        raise ValueError(f"layerwise: layers must give every parameter a number, got none for {missing}; add them")
    return numbers


def _by_path(model: nn.Module, layers: Mapping[str, int]) -> Callable[[str], int | None]:
    """Return the number of the longest path that holds a name; the empty path holds all."""
    names = [_plain(name) for name, _ in model.named_parameters(remove_duplicate=False)]
    for path in layers:
        if not isinstance(path, str):
            raise TypeError(f"layerwise: layers must have paths as keys, got {type(path).__name__}")
        if not any(_inside(name, path) for name in names):
            raise ValueError(
                f"layerwise: layers must have paths in the model, got {path!r}, not among {_listed(names)}"
            )

    def number(name: str) -> int | None:
        return next((layers[path] for path in (name, *reversed(_ancestors(name))) if path in layers), None)

    return number


def _matched(model: nn.Module) -> dict[str, int] | None:
    """Ask timm's `group_matcher`, where the model, or the one module in it that matters, has that method."""
    owners = [path for path, module in model.named_modules() if callable(getattr(module, "group_matcher", None))]
    owners = [path for path in owners if not any(_inside(path, other) for other in owners if other != path)]
    if len(owners) != 1:
        return None
    matcher: Any = model.get_submodule(owners[0])
    key_of = _matcher_keys(matcher.group_matcher(coarse=False))
    names = [name for name, _ in model.named_parameters()]
    keys = {name: key_of(_plain(name[len(owners[0]) :].lstrip("."))) for name in names if _inside(name, owners[0])}
    for name in names:  # around a backbone
        embedding = name not in keys and _told_by_name(name, owners) == "embeddings"
        keys.setdefault(name, min(keys.values(), default=(math.inf,)) if embedding else (math.inf,))
    numbers: dict[tuple[float, ...], int] = {}
    for key in sorted(set(keys.values())):
        joins = numbers and key[-1] == _WITH_PREVIOUS
        numbers[key] = max(numbers.values(), default=-1) + (0 if joins else 1)
    if max(numbers.values(), default=0) == 0:
        raise ValueError(
            f"layerwise: the model's group_matcher must tell layers apart, got one for all of {_listed(names)}; "
            "pass layers="
        )
    return {name: numbers[keys[name]] for name in names}


def _matcher_keys(matcher: Any) -> Callable[[str], tuple[float, ...]]:
    """Return the function from a name to its place in timm's order; a name that nothing matches comes last."""
    if callable(matcher):

        def called(name: str) -> tuple[float, ...]:
            key = matcher(name)
            return tuple(key) if isinstance(key, Iterable) else (key,)

        return called
    if not isinstance(matcher, Mapping):
        raise TypeError(
            f"layerwise: the model's group_matcher must give a mapping or a function, got {type(matcher).__name__}"
        )
    rules = [
        (re.compile(pattern), ordinal, suffix or ())
        for ordinal, spec in enumerate(matcher.values())
        if spec is not None
        for pattern, suffix in ([(spec, None)] if isinstance(spec, str) else spec)
    ]

    def found(name: str) -> tuple[float, ...]:
        for pattern, ordinal, suffix in rules:
            if hit := pattern.match(name):
                return tuple(map(float, (ordinal, *(part for part in hit.groups() if part is not None), *suffix)))
        return (math.inf,)

    return found


@dataclass(frozen=True)
class _Stack:
    """Blocks that run one after another, and the part of the model that is theirs alone ("" for all of it)."""

    lists: list[tuple[str, list[tuple[str, nn.Module]]]]
    home: str = ""

    @property
    def blocks(self) -> list[tuple[str, nn.Module]]:
        return [block for _, found in self.lists for block in found]

    @property
    def label(self) -> str:
        return f"{self.home}.embeddings" if self.home else "embeddings"

    def trunk(self) -> str:
        """Return the path of the module that holds the lists."""
        return _shared([_parent(path) for path, _ in self.lists])

    def stage(self, name: str) -> int:
        """Return which of the stages, if there are several modules of them, a parameter is inside; else 0."""
        parents = [_parent(path) for path, _ in self.lists]
        apart = len(set(parents)) == len(parents)
        return next((k for k, parent in enumerate(parents) if apart and _inside(name, parent)), 0)


def _placed(model: nn.Module) -> dict[str, tuple[int, str]]:
    """Give every parameter's depth and its layer's label, by the model's structure."""
    stacks = _stacks(model)
    deepest = max(len(stack.blocks) for stack in stacks) + 1
    block_of = {
        f"{path}.{name}": (stack, index)
        for stack in stacks
        for index, (path, block) in enumerate(stack.blocks)
        for name, _ in block.named_parameters(remove_duplicate=False)
    }
    reached = dict.fromkeys((stack.home for stack in stacks), 0)  # the blocks that registration order has come to
    latest = max(stacks, key=lambda stack: len(stack.blocks))
    units = _Units(model, stacks)
    placed = {}
    for name, _ in model.named_parameters():
        own = next((stack for stack in stacks if _inside(name, stack.home)), None)
        if name in block_of:
            latest, index = block_of[name]
            reached[latest.home] = max(reached[latest.home], index + 1)
            stack = latest
        else:
            stack = own or latest
            index = _index(name, stack, reached[stack.home], units)
        size = len(stack.blocks)
        if index < 0:
            placed[name] = (size + 1, stack.label) if own else (deepest, "embeddings")
        else:
            placed[name] = (size - index, "head" if index == size else _plain(stack.blocks[index][0]))
    return placed


def _index(name: str, stack: _Stack, reached: int, units: _Units) -> int:
    """Return the block that a parameter outside the blocks belongs to: -1 is the embeddings, one too many the head."""
    size = len(stack.blocks)
    told = None if stack.stage(name) else _told_by_name(name, units.lists)
    if told == "head":
        return size
    norm = units.is_norm(name)
    if norm and any(map(_FINAL.fullmatch, name.split("."))):
        return size - 1
    if told == "embeddings" or reached == 0 or units.is_table(name):
        return -1
    if reached < size:
        return reached - 1 if norm else reached
    trunk = stack.trunk()
    inside = _TRUNK.fullmatch(trunk.rpartition(".")[2]) and _inside(name, trunk)
    return size - 1 if norm or inside else size


class _Units:
    """The modules beside the blocks: the largest ones that hold no block."""

    def __init__(self, model: nn.Module, stacks: list[_Stack]) -> None:
        self._model = model
        self._above = {path for stack in stacks for block, _ in stack.blocks for path in _ancestors(block)}
        self.lists = [path for stack in stacks for path, _ in stack.lists]

    def is_table(self, name: str) -> bool:
        """Whether a parameter is an embedding's, whatever it is called."""
        return isinstance(self._model.get_submodule(_parent(name)), nn.Embedding)

    def is_norm(self, name: str) -> bool:
        """Whether a parameter's unit is a norm alone, and no downsampling or head that has one inside."""
        unit = next((path for path in _ancestors(name) if path not in self._above), None)
        if unit is None:  # a tensor beside the blocks
            return False
        inside = self._model.get_submodule(unit).named_parameters(unit)
        return all(_in_norm(self._model, other) for other, _ in inside)


def _told_by_name(name: str, trunks: Iterable[str]) -> str | None:
    """Tell "embeddings" or "head" by the outermost telling part of a name, past the prefix of the blocks."""
    parts = name.split(".")
    shared = max((len(_common([parts, trunk.split(".")])) for trunk in trunks), default=0)
    for part in parts[shared:]:
        if "block" in part:  # `blocks_token_only` are no tokens
            continue
        if _HEAD.fullmatch(part):
            return "head"
        if _EMBEDDING.fullmatch(part) and not _STACK.fullmatch(part):
            return "embeddings"
    return None


# Where the blocks are.

_Row = list[tuple[str, list[tuple[str, nn.Module]]]]  # lists of blocks that are one stack, each with its path


def _stacks(model: nn.Module) -> list[_Stack]:
    """Find the repeated blocks, in registration order: one stack, or several that run side by side."""
    rows = _rows(model)
    if not rows:
        raise ValueError(
            "layerwise: the model must have a list of blocks (an nn.ModuleList or nn.Sequential of one class), found "
            f"none around these parameters: {_listed(name for name, _ in model.named_parameters())}; "
            "put the blocks into an nn.ModuleList, or pass layers="
        )
    main = max(rows, key=_length)
    stacks: list[_Row] = [[]]
    for row in rows:
        if row is main or _in_turn(row, main):
            stacks[0] += row
        elif _apart(row, main):
            stacks.append(row)
        elif 2 * _length(row) >= _length(main):
            names = [
                f"{path}.{name}" for _, found in row for path, block in found for name, _ in block.named_parameters()
            ]
            raise ValueError(
                "layerwise: the model must have one stack of blocks, or stacks of one class or of the names encoder "
                f"and decoder, found {main[0][0]} and {row[0][0]}, of which structure does not tell how deep the "
                f"second is: {_listed(names)}; pass layers=, or call layerwise for each part and join the lists"
            )
    return [_Stack(lists, _home(lists, [other for other in stacks if other is not lists])) for lists in stacks]


def _rows(model: nn.Module) -> list[_Row]:
    """Return the lists that may be stacks; none where no list is, or the branches of a model outweigh it."""
    rows = _by_number(_block_lists(model))
    rows = {key: row for key, row in rows.items() if _length(row) > 1 or _BLOCK_LIST.fullmatch(key.rpartition(".")[2])}
    if rows:
        branches = max((_length(row) for row in rows.values() if _branches(row)), default=0)
        in_line = [row for row in rows.values() if not _branches(row)]
        return in_line if 2 * branches < max(map(_length, in_line), default=0) else []
    # A list of bare layers is usually something inside a block (an MLP, attention heads), unless there is no block.
    bare = [(path, found) for path, module in model.named_modules() if len(found := _alike(path, module)) > 1]
    bare = [entry for entry in bare if not _composite(entry[1])]
    whole = _members("", model)
    if len(whole) > max((len(found) for _, found in bare), default=1):
        return [[("", whole)]]
    return list(_by_number(bare).values())


def _by_number(lists: _Row) -> dict[str, _Row]:
    """Join the lists whose paths differ in numbers only, as those of a model's stages do."""
    rows: dict[str, _Row] = {}
    for path, found in _untold(lists):
        rows.setdefault(re.sub(r"\d+", "#", path), []).append((path, found))
    return rows


def _untold(lists: _Row) -> _Row:
    """Leave out lists inside a head or the embeddings, unless there are no others."""
    return [entry for entry in lists if _told_by_name(entry[0], ()) is None] or lists


def _length(row: _Row) -> int:
    return sum(len(found) for _, found in row)


def _branches(row: _Row) -> bool:
    """Whether lists are repeated in each of several modules: the branches of GoogLeNet's, which are parallel."""
    parents = {_parent(path) for path, _ in row}
    return 1 < len(parents) < len(row)


def _in_turn(row: _Row, main: _Row) -> bool:
    """Whether two lists side by side in one module follow one another: of one class, or a few more `..._blocks`."""
    parts, of_main = _differing(row, main)
    named = _SIDE.fullmatch(parts[0]) or _SIDE.fullmatch(of_main[0])
    more = "block" in parts[0] and 2 * _length(row) < _length(main)
    return len(parts) == len(of_main) == 1 and not named and (more or _kind(row) is _kind(main))


def _apart(row: _Row, main: _Row) -> bool:
    """Whether a list is another stack: of the same class in another module, or encoder and decoder by name."""
    parts, of_main = _differing(row, main)
    named = bool(_SIDE.fullmatch(parts[0])), bool(_SIDE.fullmatch(of_main[0]))
    alike = _kind(row) is _kind(main) and _composite(main[0][1])
    return all(named) or (alike and (any(named) or len(parts) > 1 or len(of_main) > 1))


def _differing(row: _Row, main: _Row) -> tuple[list[str], list[str]]:
    """Return what is left of the two paths where they part."""
    paths = row[0][0].split("."), main[0][0].split(".")
    shared = min(len(_common(paths)), len(paths[0]) - 1, len(paths[1]) - 1)
    return paths[0][shared:], paths[1][shared:]


def _kind(row: _Row) -> type:
    return Counter(type(block) for _, found in row for _, block in found).most_common(1)[0][0]


def _home(lists: _Row, others: list[_Row]) -> str:
    """Return the outermost module that holds these lists and none of the other stacks'."""
    if not others:
        return ""
    foreign = [path for other in others for path, _ in other]
    shared = _shared([path for path, _ in lists])
    outward = [*_ancestors(f"{shared}."), lists[0][0]]
    return next((home for home in outward if home and not any(_inside(path, home) for path in foreign)), lists[0][0])


def _block_lists(model: nn.Module) -> _Row:
    """Find the outermost lists of modules that have parts, the lists of stages excepted: those inside them count."""
    lists: _Row = []
    closed: list[str] = []
    for path, module in model.named_modules():
        if any(_inside(path, outer) for outer in closed):
            continue
        if path.rpartition(".")[2] == "experts":  # they run in parallel
            closed.append(path)
        found = _alike(path, module)
        if _composite(found) and not _holds_stages(found):
            lists.append((path, found))
            closed.append(path)
    return lists


def _alike(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a list's members, if of one class, half of them blocks of one class, or called `blocks` or `layers`."""
    members = [] if path.rpartition(".")[2] == "experts" else _members(path, module)
    if not members:
        return []
    kinds = Counter(type(member) for _, member in members)
    blocks = {type(member) for path, member in members if _composite([(path, member)])}
    mostly = any(1 < kinds[kind] >= len(members) / 2 and not issubclass(kind, _LISTS) for kind in blocks)
    named = _INNER_LIST.fullmatch(path.rpartition(".")[2]) and _composite(members)
    return members if len(kinds) == 1 or mostly or named else []


_LISTS = (nn.ModuleList, nn.Sequential)


def _members(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what a list holds, each with its path; what has no parameters, and a bare norm, is no layer."""
    if not isinstance(module, _LISTS):
        return []
    return [
        (f"{path}.{name}" if path else name, child)
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None and not _norm(child)
    ]


def _holds_stages(found: list[tuple[str, nn.Module]]) -> bool:
    """Whether a list's members are sequences of blocks, or all of them modules that have a list of `blocks`."""

    def staged(path: str, stage: nn.Module) -> bool:
        named = [(f"{path}.{name}", child) for name, child in stage.named_children() if _INNER_LIST.fullmatch(name)]
        return any(_composite(_alike(*entry)) for entry in named)

    sequences = (_composite(_alike(path, stage)) for path, stage in found if isinstance(stage, nn.Sequential))
    return any(sequences) or all(staged(path, stage) for path, stage in found)


def _composite(blocks: list[tuple[str, nn.Module]]) -> bool:
    return any(next(block.children(), None) is not None for _, block in blocks)


def _in_norm(model: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to a normalisation layer, of torch or of anyone's own."""
    return _norm(model.get_submodule(_parent(name)))


def _norm(module: nn.Module) -> bool:
    parts = any(next(child.parameters(), None) is not None for child in module.children())
    return "norm" in type(module).__name__.lower() and not parts


# Names and paths.


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, torch.compile and the like: modules that hold one other and nothing else."""
    while True:
        children = dict(model.named_children())
        if len(children) != 1 or next(model.parameters(recurse=False), None) is not None:
            return model
        name, child = children.popitem()
        if name not in _WRAPPERS:
            return model
        model = child


def _plain(name: str) -> str:
    """Return a name without what wrappers around inner modules put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS or part == "module")


def _inside(path: str, outer: str) -> bool:
    return not outer or path == outer or path.startswith(f"{outer}.")


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _ancestors(path: str) -> list[str]:
    """Return the modules around a path, from the model ("") on."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))]


def _common(paths: Iterable[list[str]]) -> list[str]:
    """Return the parts that all paths begin with."""
    return [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]


def _shared(paths: Iterable[str]) -> str:
    return ".".join(_common([path.split(".") for path in paths]))


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:8]) + (f", ... ({len(known) - 8} more)" if len(known) > 8 else "") or "(none)"


# Arguments.


def _overrides(
    model: nn.Module, overrides: Mapping[str | re.Pattern[str], Mapping[str, float]]
) -> Callable[[str], tuple[str, dict[str, float]]]:
    """Return the function from a parameter's name to the patterns that match it, and the values they set."""
    if not isinstance(overrides, Mapping):
        raise TypeError(f"layerwise: overrides must be a mapping of patterns, got {type(overrides).__name__}")
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(_plain(name))
    names = {name: aliases[id(parameter)] for name, parameter in model.named_parameters()}
    hits: dict[str, tuple[list[str], dict[str, float]]] = {name: ([], {}) for name in names}
    for pattern, values in overrides.items():
        text, matches = _pattern(pattern)
        checked = _values(text, values)
        found = [name for name, known in names.items() if any(map(matches, known))]
        if not found:
            raise ValueError(
                f"layerwise: overrides must match a parameter's whole name, got {text!r}, which matches none of "
                f"{_listed(map(_plain, names))}; a glob has * where anything may stand"
            )
        for name in found:
            hits[name][0].append(text)
            hits[name][1].update(checked)

    def override(name: str) -> tuple[str, dict[str, float]]:
        patterns, values = hits[name]
        return f"[{', '.join(patterns)}]" if patterns else "", values

    return override


def _pattern(pattern: Any) -> tuple[str, Callable[[str], Any]]:
    """Return how a pattern reads, and its test."""
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern.pattern, pattern.fullmatch
    if isinstance(pattern, str):
        return pattern, re.compile(fnmatch.translate(pattern)).fullmatch
    raise TypeError(
        f"layerwise: overrides must have globs or compiled regular expressions as keys, got {type(pattern).__name__}"
    )


def _values(pattern: str, values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise TypeError(f"layerwise: overrides[{pattern!r}] must be a mapping, got {type(values).__name__}")
    unknown = [key for key in values if key not in ("lr", "weight_decay")]
    if unknown or not values:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"layerwise: overrides[{pattern!r}] must set lr, weight_decay or both, got {got}")
    return {key: _number(f"overrides[{pattern!r}][{key!r}]", value, 0.0, math.inf) for key, value in values.items()}


def _exempt(model: nn.Module, names: Iterable[str] | None) -> Callable[[str], Any]:
    """Return the test for `no_weight_decay`: a whole name, or the end of one, either with wildcards."""
    if names is None:
        method = getattr(model, "no_weight_decay", None)
        names = method() if callable(method) else ()
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise TypeError(
            f"layerwise: no_weight_decay must be a list of names, got {type(names).__name__}; "
            "put a single name into a list"
        )
    given = tuple(names)
    for name in given:
        if not isinstance(name, str):
            raise TypeError(f"layerwise: no_weight_decay must hold names, got {type(name).__name__}")
    if not given:
        return lambda _: False
    ends = "|".join(map(fnmatch.translate, given))
    return re.compile(rf"(?:.*\.)?(?:{ends})", re.DOTALL).fullmatch


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool | torch.Tensor) or not isinstance(value, Real):
        raise TypeError(f"layerwise: {name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not (low <= number <= high and math.isfinite(number)):
        rule = f">= {low:g} and finite" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"layerwise: {name} must be {rule}, got {number!r}")
    return number
