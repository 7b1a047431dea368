"""Figures carry alt text, repeat to the byte and do not pile up."""

from __future__ import annotations

import pytest
from matplotlib import pyplot as plt

from prunekit.course import show
from prunekit.errors import InputError


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict]]:
    seen: list[tuple[dict, dict]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: seen.append((data, metadata)))
    return seen


def line():
    fig, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1])
    return fig


def test_the_picture_and_its_alt_text_are_displayed_and_the_figure_closed(shown: list[tuple[dict, dict]]):
    fig = line()
    show(fig, alt="a line from zero to one")
    (data, metadata) = shown[0]
    assert data["image/png"].startswith("iVBORw0KGgo")
    assert data["text/plain"] == "[figure] a line from zero to one"
    assert metadata == {"image/png": {"alt": "a line from zero to one"}}
    assert not plt.fignum_exists(fig.number)


def test_the_same_figure_gives_the_same_bytes(shown: list[tuple[dict, dict]]):
    show(line(), alt="a line from zero to one")
    show(line(), alt="a line from zero to one")
    assert shown[0] == shown[1]


def test_alt_text_must_say_something(shown: list[tuple[dict, dict]]):
    with pytest.raises(InputError, match="too short"):
        show(line(), alt="a figure")
    assert shown == []
    plt.close("all")
