"""A figure with controls, for a running notebook; on a page it stands still."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from dcal_lite import plot
from dcal_lite.explorers.figure import address, figure_png

DPI = 100
VIEW = "application/vnd.jupyter.widget-view+json"


class Control:
    """A figure and its controls, as `control` makes them."""

    def __init__(self, draw: Callable[..., plot.Figure], alt: str, **controls: Any):
        self.draw, self.alt, self.controls = draw, alt, controls
        self.still = figure_png(draw(), DPI)

    def to_html(self) -> str:
        """The figure as it is with the defaults, and what would move it."""
        names = ", ".join(name.replace("_", " ") for name in self.controls)
        return (f'<div class="explorer-place">\n<img alt="{self.alt}" src="{address(self.still)}">\n'
                f"<p>To be set in a running notebook: {names}.</p>\n</div>")  # fmt: skip

    def widget(self):
        """The figure and its controls as a widget, or None where ipywidgets is not installed."""
        try:
            import ipywidgets
        except ImportError:
            return None
        as_large_as_drawn = {"align_self": "flex-start", "max_width": "100%"}
        image = ipywidgets.Image(value=self.still, format="png", layout=as_large_as_drawn)

        @wraps(self.draw)  # its defaults are the controls' first values
        def redraw(**values: Any) -> None:
            image.value = figure_png(self.draw(**values), DPI)

        box = ipywidgets.interactive(redraw, **self.controls)
        for part in box.kwargs_widgets:
            part.style.description_width = "initial"
            part.description = part.description.replace("_", " ")
            if hasattr(part, "continuous_update"):
                part.continuous_update = False  # a figure takes a moment
        box.children = (*box.children, image)
        return box

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        bundle, widget = {"text/html": self.to_html(), "text/plain": self.alt}, self.widget()
        if widget is None:
            return bundle
        return bundle | {VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


def control(draw: Callable[..., plot.Figure], alt: str, **controls: Any) -> Control:
    """A figure with controls in a running notebook, and the figure alone on a page; a cell's last line shows it.

    Args:
        draw: returns a matplotlib figure. Its arguments have defaults: with them it draws the figure that stands still.
        alt: what the figure shows, in words.
        controls: for each argument, what ipywidgets makes a control of: (lowest, highest, step) or (lowest, highest)
            a slider, a list or dictionary a choice, True or False a box to tick.
    """
    return Control(draw, alt, **controls)
