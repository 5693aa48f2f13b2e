"""Inputs that fuzzing kept, run again, and a few more per target, always the same; ``.ci/fuzz`` searches longer."""

import math
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz import mutate, targets

import fastsched as fs
from fastsched import _core

EXECUTIONS = {"checkpoint": 20, "compat_build": 300, "native": 300, "programs": 300}


@pytest.mark.parametrize("target", targets.TARGETS)
def test_what_fuzzing_recorded_is_accepted_or_refused_as_it_should_be(target):
    inputs = targets.recorded(target)
    assert inputs
    for data in inputs:
        mutate.attempt(target, data)


@pytest.mark.parametrize("target", targets.TARGETS)
def test_mutated_inputs_are_accepted_or_refused_as_they_should_be(target):
    choose, inputs = random.Random(0), targets.seeds(target)
    for _ in range(EXECUTIONS.get(target, 1000)):
        mutate.attempt(target, mutate.mutated(choose.choice(inputs), choose))


def test_a_finding_says_which_line_records_it(monkeypatch):
    monkeypatch.setattr(fs, "from_json", lambda text: {}[text])
    with pytest.raises(KeyError) as caught:
        mutate.attempt("from_json", b"{}")
    assert caught.value.__notes__ == ["corpus/from_json.txt: e30="]


@pytest.mark.parametrize("target", ["from_json", "plan_from_json", "spec"])
def test_seeds_of_texts_are_accepted(target):
    accept = {"from_json": fs.from_json, "plan_from_json": fs.Plan.from_json, "spec": fs.spec.parse}[target]
    for seed in targets.seeds(target):
        accept(seed.decode())


def test_seeds_of_programs_are_such_as_the_module_runs(monkeypatch):
    accepted, seeds = [], targets.seeds("programs")

    def program(*arrays, made=_core.Program):
        accepted.append(made(*arrays))
        return accepted[-1]

    monkeypatch.setattr(_core, "Program", program)
    for seed in seeds:
        targets.programs(seed)
    assert len(accepted) == len(seeds) > 0


def test_both_languages_have_the_same_edges():
    header = Path(targets.__file__).with_name("bytes.hpp").read_text()
    text = re.search(r"edges\[\] = \{(.*?)\};", header, re.DOTALL)[1]
    limits = {"infinity": math.inf, "quiet_NaN": math.nan, "denorm_min": 5e-324}
    limits |= {"min": sys.float_info.min, "max": sys.float_info.max}
    numbers = []
    for word in text.replace("\n", " ").split(","):
        limit = re.search(r"::(\w+)\(\)", word)
        sign = -1.0 if word.strip().startswith("-") else 1.0
        numbers.append(sign * limits[limit[1]] if limit else float(word))
    np.testing.assert_array_equal(np.array(numbers), np.array(targets.EDGES))
