"""Figures with alt text: `show(fig, alt="...")` stores both in the notebook, and book and HTML pass the text on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunekit.errors import MissingDependencyError
from prunekit.viz import as_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show(fig: Figure, *, alt: str, dpi: int = 120) -> None:
    """Display a figure as PNG and close it. alt: one sentence that says what there is to see, for those who cannot.

    Building a notebook twice gives the same bytes, see viz.as_output. Raises InputError for alt text that is too short.
    """
    try:
        from IPython.display import display
    except ImportError as err:
        raise MissingDependencyError("showing figures needs IPython: pip install 'prunekit[course]'.") from err
    data, metadata = as_output(fig, alt, dpi=dpi)
    display(data, raw=True, metadata=metadata)
