"""Figures with alt text: `show(fig, alt="...")` stores both in the notebook, and book and HTML pass the text on."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from prunekit.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORTEST_ALT = 20  # letters; "a figure" tells nobody anything


def show(fig: Figure, *, alt: str, dpi: int = 120) -> None:
    """Display a figure as PNG and close it. alt: one sentence that says what there is to see, for those who cannot.

    The PNG has 256 colours, a third of the bytes for those who read on a phone, and carries no date and no version,
    so building a notebook twice gives the same bytes.
    """
    if len(alt.strip()) < SHORTEST_ALT:
        raise InputError(f"alt text {alt!r} is too short: say in a sentence what the figure shows.")
    try:
        from IPython.display import display
    except ImportError as err:
        raise MissingDependencyError("showing figures needs IPython: pip install 'prunekit[course]'.") from err
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
    plt.close(fig)
    picture = base64.b64encode(_few_colours(buffer)).decode()
    display({"image/png": picture, "text/plain": f"[figure] {alt}"}, raw=True, metadata={"image/png": {"alt": alt}})


def _few_colours(png: io.BytesIO) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    with Image.open(png) as full:
        full.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(out, format="png", optimize=True)
    return out.getvalue()
