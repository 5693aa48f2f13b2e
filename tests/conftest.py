import os

from hypothesis import settings

# No deadline: the first example pays for imports and the machine is shared. In CI the examples stay the same.
settings.register_profile(
    "fastsched", deadline=None, max_examples=60, derandomize=os.environ.get("CI") == "true"
)
settings.load_profile("fastsched")
