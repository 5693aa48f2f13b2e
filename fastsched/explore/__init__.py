"""`fastsched explore`: an interactive page of schedules and of the trainings that they cause.

It needs ``pip install 'fastsched[explore]'``. Nothing on the page computes a curve: the engine does, and the trainings
are steps of `fastsched.optim`. The page is for this machine's own browser and loads nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastsched.schedule import Schedule

if TYPE_CHECKING:
    from fastsched.explore.server import Server

__all__ = ["show"]


def show(*schedules: Schedule | str, lr: float = 0.1, port: int = 0, height: int = 900) -> Server:
    """Start the page with up to four schedules, and return its server, which a notebook shows as the page.

    ``schedules``: schedules, or texts as `fastsched.spec` reads them; ``lr``: the base learning rate; ``port``: 0
    takes a free one; ``height``: of the notebook's frame, in pixels. ``server.url`` is for a browser, and
    ``server.stop()`` ends it. Errors: ``ImportError`` if the extra is not installed; ``ValueError`` for more than four
    schedules; ``OSError`` for a port that is taken.

    >>> from fastsched import Cosine, explore
    >>> server = explore.show(Cosine(steps=100))
    >>> server.url.startswith("http://127.0.0.1:")
    True
    >>> server.stop()
    """
    server = make(schedules, lr=lr, port=port, height=height)
    return server.start()


def make(schedules: Iterable[Schedule | str], *, lr: float = 0.1, port: int = 0, height: int = 900) -> Server:
    """The server of a page, which does not serve yet: see `show`."""
    try:
        from fastsched.explore.server import Server
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        raise ImportError(
            f"explore: needs {missing}, which is not installed; pip install 'fastsched[explore]'", name=missing
        ) from None
    from fastsched.explore.state import NAMES, State

    texts = [each if isinstance(each, str) else repr(each) for each in schedules]
    if len(texts) > len(NAMES):
        raise ValueError(f"explore: there must be at most {len(NAMES)} schedules, got {len(texts)}; leave some out")
    state = State.of({**dict(zip(NAMES, texts, strict=False)), "lr": f"{lr!r}"})
    return Server(state, port, height)
