"""What all explorers share: the frame, and the forms in which their data travel."""

import base64
import io
import itertools
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dcal_lite import plot

_NUMBERS: Iterator[int] = itertools.count(1)  # of the explorers made, for elements' names


class Explorer:
    """An interactive figure; the last line of a notebook's cell shows it.

    Args:
        name: of the module beside this file, without its suffix.
        data: what the module draws, as JSON has it.
        still: what is seen where scripts are off.
        alt: what the still picture shows, in words.
    """

    def __init__(self, name: str, data: dict[str, Any], still: plot.Figure, alt: str):
        folder = files("dcal_lite.explorers")
        self.module = "\n".join((folder / f"{part}.js").read_text("utf-8") for part in ("common", name))
        self.data, self.alt, self.still = data, alt, address(figure_png(still, dpi=80))
        self.name = f"explorer-{name}-{next(_NUMBERS)}"
        self.read: Callable[[bytes], dict[str, Any]] | None = None  # an uploaded photo -> data; see photos.py

    def to_html(self) -> str:
        """The figure as HTML that stands for itself."""
        data = json.dumps(self.data, separators=(",", ":")).replace("</", "<\\/")
        return (f'<div id="{self.name}" class="explorer-place"></div>\n'
                f'<noscript><img alt="{self.alt}" src="{self.still}"></noscript>\n'
                f'<script type="module">\n{self.module}\nconst data = {data};\n'
                f'const el = document.getElementById("{self.name}");\n'
                "render({ model: { get: (key) => ({ data })[key] }, el });\n"
                "</script>")  # fmt: skip

    def widget(self):
        """The figure as an anywidget, or None where anywidget is not installed."""
        try:
            from anywidget import AnyWidget
        except ImportError:
            return None
        from traitlets import Dict, Unicode

        traits = {"_esm": self.module, "data": Dict(self.data).tag(sync=True)}
        if self.read:
            traits |= {name: Unicode("").tag(sync=True) for name in ("photo", "error")}
        widget = type("ExplorerWidget", (AnyWidget,), traits)()
        if self.read:
            widget.observe(self._take, "photo")
        return widget

    def _take(self, change: Any) -> None:
        """Show the photo that the widget has sent, as the address of its own data."""
        try:
            change.owner.data = self.read(base64.b64decode(change.new.partition(",")[2]))
            change.owner.error = ""
        except ValueError as error:
            change.owner.error = str(error)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        widget = self.widget()
        bundle, metadata = widget._repr_mimebundle_() if widget else ({}, {})
        return bundle | {"text/html": self.to_html(), "text/plain": self.alt}, metadata


def encode(values: Float[Tensor, "..."]) -> str:
    """Values in [0, 1] in fixed point, 16 bits each, in base 64; they are right to 1/131070."""
    return base64.b64encode((values.double() * 65535).round().numpy().astype("<u2").tobytes()).decode()


def encode_floats(values: Float[Tensor, "..."]) -> str:
    """Values of any size in single precision, in base 64."""
    return base64.b64encode(values.float().numpy(force=True).astype("<f4").tobytes()).decode()


def to_png(picture: Any) -> str:
    """An image as the address of its own data."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plot.as_array(picture))).save(file, "png", optimize=True)
    return address(file.getvalue())


def figure_png(figure: plot.Figure, dpi: int) -> bytes:
    """A figure as a PNG file, the same in every run; closes it, or a notebook would show it once more."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    plot.plt.close(figure)
    return file.getvalue()


def address(png: bytes) -> str:
    """The address that is a PNG file's own data."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
