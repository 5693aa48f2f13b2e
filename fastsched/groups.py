"""Layer-wise learning rates: from a torch model to parameter groups, found by the model's structure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import torch
from torch import nn

__all__ = ["LayerGroups", "layerwise"]

# What a parameter outside the blocks is, told by a part of its path. Head first: `embed_out` is one.
_HEAD = re.compile(r"heads?|(\w+_)?head(_\w+)?|cls|fc(_\w+)?|(\w+_)?classifier|pooler|score|logits|embed_out")
_EMBEDDING = re.compile(r"(\w+_)?(embed|embeds|embedding|embeddings|emb|token|tokens|wte|wpe|stem)(_\w+)?")


class LayerGroups(list[dict[str, Any]]):
    """Torch parameter groups, as a list that any optimizer takes; printing it shows a table.

    Each group has exactly the keys `name`, `params`, `lr` and `weight_decay`. An optimizer keeps the
    dictionaries it is given, so build a new list for each optimizer.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float) -> None:
        super().__init__(groups)
        self._lr = lr

    def summary(self) -> str:
        """Return one line per group (tensors, parameters, scale, lr, weight decay) and the totals."""
        heading = ["group", "tensors", "parameters", "scale", "lr", "weight decay"]
        rows = [heading, *(self._row(group) for group in self)]
        name_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = []
        for name, *cells in rows:
            aligned = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append("  ".join([name.ljust(name_width), *aligned]))
        tensors = sum(len(group["params"]) for group in self)
        lines.append(f"{len(self)} groups, {tensors} tensors, {sum(map(_elements, self)):,} parameters")
        return "\n".join(lines)

    def _row(self, group: dict[str, Any]) -> list[str]:
        scale = f"{group['lr'] / self._lr:.4f}" if self._lr > 0.0 else "-"
        numbers = [f"{len(group['params'])}", f"{_elements(group):,}", scale]
        return [group["name"], *numbers, f"{group['lr']:.3e}", f"{group['weight_decay']:g}"]

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:  # list's own would print every tensor's contents
        return f"<LayerGroups: {len(self)} groups, {sum(map(_elements, self)):,} parameters>"


def layerwise(
    model: nn.Module,
    lr: float,
    *,
    decay: float = 0.75,
    weight_decay: float = 0.05,
    min_scale: float = 0.0,
    no_weight_decay: Iterable[str] | None = None,
    per_parameter: bool = False,
) -> LayerGroups:
    """Parameter groups whose learning rate shrinks with the distance from the head.

    A tensor of layer `i` gets `lr * max(min_scale, decay ** (top - i))`. Layer 0 holds the embeddings
    (what comes before the blocks, and tokens and position tables wherever they are registered), layers
    1 to N are the blocks, and the head on top of them has scale 1. A final norm belongs to the last
    block, unless it is the head's own (`fc_norm`). For a timm vision transformer these are the scales and
    the split of timm's `param_groups_layer_decay`.

    The blocks are found by structure: the longest `nn.ModuleList` or `nn.Sequential` of modules of one
    class, at any depth of the model. Several lists of that class (the stages of a ResNet) count on.

    Args:
        model: any torch module with such a list.
        lr: the head's learning rate, >= 0.
        decay: the ratio between neighbouring layers, in (0, 1].
        weight_decay: for matrices and everything of more dimensions; biases, norms and 1-d tensors get 0.
        min_scale: no layer's scale falls below it, in [0, 1].
        no_weight_decay: further names without weight decay: whole names or their ends, so that
            `"pos_embed"` is also `vit.pos_embed`. None asks `model.no_weight_decay()` where the model has
            that method.
        per_parameter: one group per tensor, named after it, for recipes that tune single tensors. By
            default there are up to two groups per layer, `<layer>.decay` and `<layer>.no_decay`.

    Returns:
        A list of groups with exactly the keys name, params, lr (scaled) and weight_decay. Every trainable
        tensor is in one of them; frozen ones are left out; a tensor under two names counts once, under
        its first.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, no layers to be told apart, or nothing to train.

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
    exempt = _exempt(model, no_weight_decay)

    layer_of, labels = _layers(model)
    top = max(layer_of.values())
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = not (parameter.ndim <= 1 or name.endswith(".bias") or _in_norm(model, name) or exempt(name))
        layer = layer_of[name]
        key = name if per_parameter else f"{labels[layer]}.{'decay' if decays else 'no_decay'}"
        if key not in groups:
            groups[key] = {
                "name": key,
                "params": [],
                "lr": lr * max(min_scale, decay ** (top - layer)),
                "weight_decay": weight_decay if decays else 0.0,
            }
        groups[key]["params"].append(parameter)
    if not groups:
        raise ValueError("layerwise: the model must have a parameter that trains, got none; set requires_grad on some")
    return LayerGroups(groups.values(), lr)


def _layers(model: nn.Module) -> tuple[dict[str, int], list[str]]:
    """Give every parameter's layer by its name, and every layer's label."""
    blocks = _blocks(model)
    block_of = {
        f"{path}.{name}": index
        for index, (path, block) in enumerate(blocks, start=1)
        for name, _ in block.named_parameters(remove_duplicate=False)
    }
    last, head = len(blocks), len(blocks) + 1
    trunk = blocks[0][0].split(".")[:-1]
    layer_of = {}
    reached = 0  # the block that registration order has come to
    for name, _ in model.named_parameters():
        if name in block_of:
            reached = max(reached, block_of[name])
            layer_of[name] = block_of[name]
            continue
        part = _told_by_name(name, trunk)
        if part == "embeddings":
            layer_of[name] = 0
        elif part == "head" or (reached == last and not _in_norm(model, name)):
            layer_of[name] = head
        else:
            layer_of[name] = reached
    return layer_of, ["embeddings", *(path for path, _ in blocks), "head"]


def _told_by_name(name: str, trunk: list[str]) -> str | None:
    """Tell "embeddings" or "head" by the outermost telling part of a name, past the prefix of the blocks."""
    parts = name.split(".")
    shared = 0
    while shared < min(len(parts), len(trunk)) and parts[shared] == trunk[shared]:
        shared += 1
    for part in parts[shared:]:
        if _HEAD.fullmatch(part):
            return "head"
        if _EMBEDDING.fullmatch(part):
            return "embeddings"
    return None


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Find the repeated blocks, in registration order, each with its path."""
    lists = [(path, found) for path, module in model.named_modules() if (found := _alike(path, module))]
    # A list of bare layers is usually something inside a block (an MLP, attention heads).
    lists = [entry for entry in lists if _composite(entry[1])] or lists
    # A list of lists of blocks holds stages: the lists inside count.
    paths = {path for path, _ in lists}
    lists = [(path, found) for path, found in lists if not all(block in paths for block, _ in found)]
    if lists:
        longest = max(lists, key=lambda entry: len(entry[1]))[1]
        kind = type(longest[0][1])
        if not issubclass(kind, nn.Sequential | nn.ModuleList) and _composite(longest):
            inside = tuple(f"{block}." for block, _ in longest)
            outside = [entry for entry in lists if not f"{entry[0]}.".startswith(inside)]
            for path, found in outside:
                if type(found[0][1]) is not kind and len(found) > 1 and 2 * len(found) >= len(longest):
                    raise ValueError(
                        f"layerwise: the model must have one stack of blocks, found {longest[0][0].rpartition('.')[0]} "
                        f"and {path}; call layerwise for each part of the model and join the lists"
                    )
            longest = [block for _, found in outside if type(found[0][1]) is kind for block in found]
        if len(longest) > 1:
            return longest
    names = [name for name, _ in model.named_parameters()]
    listed = ", ".join(names[:8]) + (f", ... ({len(names) - 8} more)" if len(names) > 8 else "")
    raise ValueError(
        "layerwise: the model must have a list of blocks (an nn.ModuleList or nn.Sequential of one class), "
        f"found none around these parameters: {listed or '(none)'}; put the blocks into an nn.ModuleList"
    )


def _alike(path: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a list's children that hold parameters, if of one class; parallel experts are no layers."""
    if not isinstance(module, nn.ModuleList | nn.Sequential) or path.rpartition(".")[2] == "experts":
        return []
    children = [
        (f"{path}.{name}" if path else name, child)
        for name, child in module.named_children()
        if next(child.parameters(), None) is not None
    ]
    return children if len({type(child) for _, child in children}) == 1 else []


def _composite(blocks: list[tuple[str, nn.Module]]) -> bool:
    return any(True for _ in blocks[0][1].children())


def _in_norm(model: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to a normalisation layer, of torch or of anyone's own."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return "norm" in type(owner).__name__.lower() and not any(True for _ in owner.children())


def _exempt(model: nn.Module, names: Iterable[str] | None) -> Callable[[str], bool]:
    """Return the test for `no_weight_decay`: a whole name, or the end of one."""
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
    return lambda name: any(name == end or name.endswith(f".{end}") for end in given)


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool | torch.Tensor) or not isinstance(value, Real):
        raise TypeError(f"layerwise: {name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not (low <= number <= high and math.isfinite(number)):
        rule = f">= {low:g} and finite" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"layerwise: {name} must be {rule}, got {number!r}")
    return number


def _elements(group: dict[str, Any]) -> int:
    return sum(parameter.numel() for parameter in group["params"])
