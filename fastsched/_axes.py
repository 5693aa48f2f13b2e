"""A figure and axes that a notebook shows although pyplot does not know them."""

from __future__ import annotations

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that no pyplot state refers to."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """The picture, for a notebook."""
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=100)
        return data.getvalue()


class Panel(Axes):
    """Axes that show the figure that they are in."""

    def _repr_png_(self) -> bytes | None:
        """The whole figure, for a notebook."""
        figure = self.get_figure(root=True)
        return figure._repr_png_() if isinstance(figure, Picture) else None
