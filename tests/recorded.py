"""Curves of other frameworks, recorded by running these, as data/compat_<system>.json has them."""

import json
from pathlib import Path

import numpy as np

import fastsched as fs
from fastsched import compat


def recorded(system):
    """Its cases by their id."""
    text = (Path(__file__).parent / "data" / f"compat_{system}.json").read_text(encoding="utf-8")
    return {case["id"]: case for case in json.loads(text)["cases"]}


def assert_reproduced(system, case):
    """`compat.build` makes of a case's plain data what the peer did, group by group."""
    made = compat.build(
        system,
        case["name"],
        case["kwargs"],
        base_lr=case["base_lr"],
        hyperparameter=case["hyperparameter"],
        context=case["context"],
    )
    several = isinstance(case["values"][0], list)
    assert isinstance(made, list) == several
    for ours, theirs in zip(made if several else [made], case["values"] if several else [case["values"]], strict=True):
        # Both sides round a few times in float64; where a curve crosses 0, what is left is relative to its size.
        np.testing.assert_allclose(ours.table(len(theirs)), theirs, rtol=1e-12, atol=1e-12 * np.abs(theirs).max())
        assert fs.from_json(ours.to_json()) == ours
