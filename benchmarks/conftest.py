"""The short set, one thread where nothing is timed, and what a result file tells of the machine."""

import importlib.metadata
import os

import ceilings
import pytest
import torch

import fastsched as fs

NOTED = pytest.StashKey()
DISTRIBUTIONS = ("torch", "numpy", "numba", "transformers", "lightning", "jax", "optax", "deepspeed")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "short: of the short set, from which the README's figures are: pytest benchmarks -m short"
    )
    config.stash[NOTED] = {}


@pytest.fixture(scope="session")
def untimed(request):
    return bool(request.config.getoption("benchmark_disable"))


@pytest.fixture(scope="session")
def noted(request):
    """What goes into the result file beside the cases."""
    return request.config.stash[NOTED]


@pytest.fixture(scope="session", autouse=True)
def before_the_first_case(noted, untimed):
    if not untimed:
        noted |= {"load": os.getloadavg()[0], "ceilings": [ceilings.measured()]}


@pytest.fixture(autouse=True)
def one_thread_untimed(untimed):
    """What is not timed is too small to share, and two threads wait for each other where cores are busy."""
    before = torch.get_num_threads()
    if untimed:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def note_the_short_set(request):
    if "benchmark" in request.fixturenames:
        benchmark = request.getfixturevalue("benchmark")
        benchmark.extra_info["short"] = request.node.get_closest_marker("short") is not None


def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pytest_benchmark_update_json(config, benchmarks, output_json):
    """Add what report.py says of the machine: versions, threads, instruction set, load, ceilings before and after."""
    from fastsched import _core

    output_json |= config.stash[NOTED]
    output_json["versions"] = {name: found for name in DISTRIBUTIONS if (found := version(name))}
    output_json["threads"] = torch.get_num_threads()
    output_json["backend"] = f"{fs.backend()}, {_core.isa()}"
    output_json["ceilings"].append(ceilings.measured())
