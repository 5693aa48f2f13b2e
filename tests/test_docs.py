"""What the documentation shows is what happens."""

import doctest
import importlib
import operator
import re
from pathlib import Path

import pytest
import torch

import fastsched as fs

MEMBERS = ("optim", "compat", "recipes", "spec")  # modules
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PUBLIC = {name: getattr(fs, name) for name in fs.__all__ if name not in MEMBERS}
KINDS = sorted(name for name, value in PUBLIC.items() if isinstance(value, type) and issubclass(value, fs.Schedule))

MODULES = [
    *(
        "schedule",
        "kinds",
        "plan",
        "groups",
        "optim",
        "_backend",
        "units",
        "lint",
        "_compare",
        "_fit",
        "_plot",
        "finder",
    ),
    *("recipes", "spec"),
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_are_right(module):
    loaded = importlib.import_module(f"fastsched.{module}")
    others = {name: value for name, value in PUBLIC.items() if not hasattr(loaded, name)}
    result = doctest.testmod(loaded, extraglobs=others)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "Schedule"])
def test_every_kind_says_formula_source_units_and_errors(kind):
    text = PUBLIC[kind].__doc__
    for word in ("Source:", "Units:", "Errors:", ">>>"):
        assert word in text


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "Schedule"])
def test_every_public_name_has_a_docstring(name):
    assert PUBLIC[name].__doc__


def test_the_readmes_python_runs(capsys):
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 8),
        torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()) for _ in range(3))),
        torch.nn.Linear(8, 2),
    )
    before = model[0].weight.detach().clone()
    names = {
        "model": model,
        "loss_fn": torch.nn.functional.cross_entropy,
        "loader": [(torch.ones(5, 4), torch.zeros(5, dtype=torch.int64))] * 3,
    }
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 4
    exec(blocks[0], names)  # the project's own text
    assert names["optimizer"].position == 3
    assert not torch.equal(model[0].weight, before)
    exec(blocks[1], names)
    assert names["schedule"](250) == 0.5
    exec(blocks[2], names)
    assert names["schedule"].steps == 4_410
    assert "zero-first-update" in capsys.readouterr().out
    exec(blocks[3], names)
    assert names["optimizer"].param_groups[0]["momentum"] == 0.95


def test_the_readmes_guides_are_python_and_name_what_there_is():
    blocks = re.findall(r"```py\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 31
    for block in blocks:
        compile(block, "README", "exec")
        for path in re.findall(r"\bfs\.([A-Za-z_.]+)", block):
            operator.attrgetter(path)(fs)
