import os

import pytest
from hypothesis import settings

# No deadline: the first example pays for imports and the machine is shared. In CI the examples stay the same.
# FASTSCHED_EXAMPLES=5000 searches longer.
settings.register_profile(
    "fastsched",
    deadline=None,
    max_examples=int(os.environ.get("FASTSCHED_EXAMPLES", "50")),
    derandomize=os.environ.get("CI") == "true",
)
settings.load_profile("fastsched")


@pytest.fixture(scope="module")
def once():
    """Runs without fastsched, each made once for all that is compared with it."""
    made = {}

    def run(name, make):
        if name not in made:
            made[name] = make()
        return made[name]

    return run


@pytest.fixture(autouse=True)
def emulated_device(request):
    """With FASTSCHED_TESTS_ON=emulated the native module sees every tensor on a CUDA device, which g++ plays."""
    if os.environ.get("FASTSCHED_TESTS_ON") != "emulated":
        yield
        return
    if request.node.get_closest_marker("host"):
        pytest.skip("only the CPU's step promises this")
    import emulated

    yield from emulated.everywhere()
