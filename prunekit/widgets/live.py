"""A picture with controls that draw it anew. The callback is a plain function, state in, View out.

A cell stores the picture of the first state and, where Python runs, the controls beside it in the same output: a page
that knows no widgets shows the picture. With PRUNEKIT_STATIC=1, which is set while lessons are built, there are no
controls at all, so that the same picture is stored each time. Works with ipywidgets 8 and with Colab's 7.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import Tensor

from prunekit.core import Groups, Scores
from prunekit.errors import InputError, MissingDependencyError, ScoreError
from prunekit.plan import uniform_plan
from prunekit.viz import as_output

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

STATIC = "PRUNEKIT_STATIC"
VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class View:
    """What is shown for one state. alt: the same in a sentence, for those who cannot see it."""

    fig: Figure
    alt: str


@dataclass(frozen=True)
class Control:
    """What can be chosen (shown text -> value), and what is chosen at first. slide: a slider, else a list."""

    options: Mapping[str, Any]
    start: Any
    slide: bool = False


def percents(ratios: Sequence[float]) -> dict[str, float]:
    """Ratios as a control's options: "25 %" -> 0.25."""
    return {f"{100 * ratio:g} %": ratio for ratio in ratios}


def explore(draw: Callable[..., View], controls: Mapping[str, Control]) -> None:
    """Show draw(**state) for the first state, with controls named as draw's arguments where they can work.

    An error in the first state is raised; later ones are written where the picture was.
    """
    try:
        from IPython.display import display
    except ImportError as err:
        raise MissingDependencyError("an explorer needs IPython: pip install 'prunekit[course]'.") from err
    first = draw(**{name: control.start for name, control in controls.items()})
    data, metadata = as_output(first.fig, first.alt)
    output: dict[str, Any] = {**data}
    if os.environ.get(STATIC) != "1":
        if find_spec("ipywidgets") is None:
            print("for controls, install ipywidgets: pip install ipywidgets")
        else:
            box = panel(draw, controls, _img(data["image/png"], first.alt))
            output[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    display(output, raw=True, metadata=metadata)


def panel(draw: Callable[..., View], controls: Mapping[str, Control], picture: str) -> VBox:
    """The controls above a picture (HTML); each change calls draw and replaces the picture."""
    import ipywidgets

    def made(name: str, control: Control) -> Any:
        kind = ipywidgets.SelectionSlider if control.slide else ipywidgets.Dropdown
        once = {"continuous_update": False} if control.slide else {}  # draw when the slider is let go
        return kind(options=list(control.options.items()), value=control.start, description=name, **once)

    boxes = {name: made(name, control) for name, control in controls.items()}
    shown = ipywidgets.HTML(picture)

    def redraw(_: Any) -> None:
        try:
            view = draw(**{name: box.value for name, box in boxes.items()})
            shown.value = _img(as_output(view.fig, view.alt)[0]["image/png"], view.alt)
        except Exception as err:  # whatever it is, a callback's traceback would be seen by nobody
            shown.value = f"<p>{escape(f'{type(err).__name__}: {err}')}</p>"

    for box in boxes.values():
        box.observe(redraw, "value")
    return ipywidgets.VBox([*boxes.values(), shown])


def _img(png: str, alt: str) -> str:
    return f'<img style="max-width:100%" alt="{escape(alt)}" src="data:image/png;base64,{png}">'


def picked(images_BCHW: Tensor, image: int) -> Tensor:
    """Image number `image`, (C, H, W); InputError when there is no such."""
    if not 0 <= image < len(images_BCHW):
        raise InputError(f"there is no image {image}; they are numbered from 0 to {len(images_BCHW) - 1}.")
    return images_BCHW[image]


def scores_of(groups: Groups, scores: Scores, group: str) -> Tensor:
    """The group's scores (U,). GroupError for an unknown group, ScoreError for scores that are missing or wrong."""
    size = groups[group].size
    if group not in scores:
        raise ScoreError(f"'{group}' has no scores; score all {size} units of it, or leave it out: groups.only([...]).")
    uniform_plan(groups, {group: scores[group]}, 0.0)  # refuses wrong lengths and NaN
    return scores[group].detach().cpu()
