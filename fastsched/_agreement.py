"""Whether all ranks, or a checkpoint and the code, mean the same schedules; and in which fields they don't."""

from __future__ import annotations

import gc
import hashlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fastsched._check import Choice, shown
from fastsched.schedule import Schedule, tokens_to_plain

ON_MISMATCH = Choice(("error", "checkpoint", "code"))
MOST_SHOWN = 10
PATIENCE = 60.0  # seconds until a rank says for whom it waits

# ---- differences


def of_group(index: int, name: str) -> str:
    """What a group's value is called, in messages and in checkpoints."""
    return f"group {index}'s {name}"


def differences(one: Mapping[str, Any], other: Mapping[str, Any], first: str, second: str) -> str:
    """In which named values two descriptions differ, and what each has; empty where they are equal.

    Of two schedules made of the same kinds the fields that differ, else both as they print. `first` and `second` say
    whose they are, such as "in the code".
    """
    found = [
        f"{name}: {mine} {first}, {theirs} {second}"
        for key in {**one, **other}
        for name, mine, theirs in _difference(key, one.get(key), other.get(key))
    ]
    more = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
    return "; ".join([*found[:MOST_SHOWN], *more])


def _difference(name: str, one: Any, other: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(one, Schedule) and isinstance(other, Schedule):
        parts, others = tokens_to_plain(one._tokens()), tokens_to_plain(other._tokens())
        if [part["kind"] for part in parts] == [part["kind"] for part in others]:
            for part, twin in zip(parts, others, strict=True):
                for key, value in part.items():
                    if value != twin[key]:
                        yield f"{name}: {part['kind']}'s {key}", _short(value), _short(twin[key])
            return
    if one != other:
        yield name, _short(one), _short(other)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = repr(value) if isinstance(value, (Schedule, tuple)) else shown(value)
    return text if len(text) <= 120 else f"{text[:90]}...{text[-25:]}"


def settled(who: str, saved: Mapping[str, Any], own: Mapping[str, Any], on_mismatch: str, depth: int) -> bool:
    """Whether what a checkpoint holds is to be taken in place of the code's, as `on_mismatch` says.

    `depth`: of calls between this one and the user's.

    Raises:
        ValueError: they differ, and `on_mismatch` is "error".

    """
    different = differences(saved, own, "in the checkpoint", "in the code")
    if not different:
        return False
    if on_mismatch == "error":
        raise ValueError(
            f"{who}: the checkpoint was made with another schedule: {different}; to go on with the checkpoint's pass "
            "on_mismatch='checkpoint', with the code's on_mismatch='code'"
        )
    warnings.warn(f"{who}: the {on_mismatch}'s schedule is used: {different}", UserWarning, stacklevel=2 + depth)
    return on_mismatch == "checkpoint"


# ---- ranks


def is_process_group(value: object) -> bool:
    """Whether this is a group of ranks of torch.distributed."""
    return dist.is_available() and isinstance(value, dist.ProcessGroup)


def word(text: str) -> int:
    """64 bits that stand for a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)


def groups_of_ranks(param_groups: list[dict[str, Any]]) -> list[Any]:
    """The process groups within which ranks are known to step together: of the DTensors' meshes, and of DDP."""
    if not (dist.is_available() and dist.is_initialized()):
        return []
    params: list[Tensor] = [param for group in param_groups for param in group["params"]]
    meshes = dict.fromkeys(p.device_mesh for p in params if hasattr(p, "device_mesh"))
    groups = [mesh.get_group(dim) for mesh in meshes for dim in range(mesh.ndim)]
    plain = {p for p in params if not hasattr(p, "device_mesh")}
    if plain:
        groups += [model.process_group for model in _ddp_models() if not plain.isdisjoint(model.parameters())]
    return [group for group in dict.fromkeys(groups) if dist.get_world_size(group) > 1]


def _ddp_models() -> list[Any]:
    """Every model that DDP wraps: a parameter doesn't know. Slow: for first steps."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), DistributedDataParallel)]


def require_agreement(
    who: str, words: Mapping[str, int], describe: Callable[[], dict[str, Any]], owner: object, group: Any
) -> None:
    """Compare numbers with all ranks of a process group, in one collective.

    Args:
        who: for messages.
        words: per field, the number or a word for it.
        describe: the same in full, exchanged only after a mismatch was found.
        owner: the optimizer.
        group: the process group.

    Raises:
        RuntimeError: a rank has another number; the message names it and the field. Every rank raises.

    """
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    mine = torch.tensor(list(words.values()), dtype=torch.int64, device=device)
    everybody = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    waiting = threading.Timer(PATIENCE, _say_who_waits, [who, group])
    waiting.daemon = True
    waiting.start()
    try:
        dist.all_gather(everybody, mine, group)
    finally:
        waiting.cancel()
    rows = [row.tolist() for row in everybody]
    fields = [name for name, column in zip(words, zip(*rows, strict=True), strict=True) if len(set(column)) > 1]
    if "parameters" in fields and _is_part(owner):
        fields.remove("parameters")
    if not fields:
        return
    everything: list[Any] = [None] * len(rows)
    dist.all_gather_object(everything, describe(), group)
    ranks = dist.get_process_group_ranks(group)
    differing = next(i for i, row in enumerate(rows) if row != rows[0])
    found = differences(everything[0], everything[differing], f"on rank {ranks[0]}", f"on rank {ranks[differing]}")
    raise RuntimeError(
        f"{who}: rank {ranks[differing]} differs from rank {ranks[0]} in {' and '.join(fields)} ({found}); make the "
        "optimizer alike on every rank, or pass agree=False where ranks mean to differ"
    )


def _say_who_waits(who: str, group: Any) -> None:
    warnings.warn(
        f"{who}: rank {dist.get_rank()} has waited {PATIENCE:.0f} s for the other {dist.get_world_size(group) - 1} to "
        "step or load the same optimizer; where not every rank does, pass agree=False",
        UserWarning,
        stacklevel=2,
    )


def _is_part(owner: object) -> bool:
    """Whether a ZeroRedundancyOptimizer holds it, which gives every rank other parameters. Slow: for mismatches."""
    return any(
        isinstance(holder, dict) and "_partition_parameters_cache" in holder for holder in gc.get_referrers(owner)
    )
