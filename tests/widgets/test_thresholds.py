"""The thresholds explorer: lines, widths, MACs and mIoU are those of the plan that the fractions ask for."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

from prunekit.core import Groups, PruningPlan, Scores
from prunekit.errors import InputError
from prunekit.metrics import evaluate
from prunekit.plan import global_plan, plan_macs
from prunekit.surgery import find_groups, prune
from prunekit.widgets import ThresholdStudy, explore_thresholds, live, thresholds_view
from prunekit.widgets.thresholds import FRACTIONS, taus

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SCORES: dict[str, Scores] = {
    "backbone": {"0": torch.tensor([0.9, 0.1, 0.8, 0.2])},
    "decoder": {"2": torch.tensor([0.05, 0.01, 0.04, 0.02])},
}


def both(groups: Groups, first: float, second: float) -> PruningPlan:
    plans = [
        global_plan(groups.only(list(scores)), scores, ratio, normalize="none")
        for scores, ratio in zip(SCORES.values(), (first, second))
    ]
    return PruningPlan({**plans[0].sizes, **plans[1].sizes}, {**plans[0].keep, **plans[1].keep})


@pytest.fixture
def study():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    groups = find_groups(net, X)
    batches = [(X, torch.randint(2, (2, 8, 8), generator=torch.Generator().manual_seed(1)))]
    yield ThresholdStudy(net, groups, SCORES, partial(both, groups), batches, 2)
    plt.close("all")


def test_what_is_shown_is_the_plans(study: ThresholdStudy):
    for first in FRACTIONS[:3]:
        for second in FRACTIONS[:3]:
            view, plan = thresholds_view(study, first, second), both(study.groups, first, second)
            share = plan_macs(study.groups, plan) / plan_macs(study.groups, PruningPlan({}, {}))
            miou = evaluate(prune(study.model, study.groups, plan), study.batches, 2).miou
            assert f"{share:.0%} of the MACs, mIoU {miou:.2f} before tuning" in view.alt
            top, bottom = view.fig.axes
            tau1, tau2 = (float(np.asarray(line.get_xdata())[0]) for line in top.lines)
            kept = [int(text.get_text()) for text in bottom.texts]
            assert kept == [int((s > t).sum()) for part, t in zip(SCORES.values(), (tau1, tau2)) for s in part.values()]
            assert kept == [round(4 * (1 - first)), round(4 * (1 - second))]
            plt.close(view.fig)


def test_thresholds_are_the_largest_scales_that_go(study: ThresholdStudy):
    assert taus(study, both(study.groups, 0.5, 0.25)) == pytest.approx((0.2, 0.01))
    assert taus(study, both(study.groups, 0.0, 0.0)) == (0.0, 0.0)


def test_a_pair_is_measured_once(study: ThresholdStudy):
    value = study.miou(0.5, 0.0)
    study.measured[0.5, 0.0] = 2.0
    assert study.miou(0.5, 0.0) == 2.0 != value and study.miou(0.0, 0.5) != 2.0


def test_what_cannot_work_is_said(study: ThresholdStudy):
    same = (study.model, study.groups)
    with pytest.raises(InputError, match="parts are backbone; give two"):
        ThresholdStudy(*same, {"backbone": SCORES["backbone"]}, study.plan, study.batches, 2)
    with pytest.raises(InputError, match="with 'nine' that the network has not"):
        ThresholdStudy(*same, {**SCORES, "decoder": {"nine": torch.ones(4)}}, study.plan, study.batches, 2)


def test_the_explorer_starts_where_it_is_told(study: ThresholdStudy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(live.STATIC, "1")
    shown: list[str] = []
    monkeypatch.setattr(
        "IPython.display.display", lambda data, raw, metadata: shown.append(metadata["image/png"]["alt"])
    )
    explore_thresholds(study)
    explore_thresholds(study, start=(0.25, 0.0))
    assert [alt.split(":")[0] for alt in shown] == [
        "backbone 50% gone, threshold 0.200, decoder 50% gone, threshold 0.020",
        "backbone 25% gone, threshold 0.100, decoder 0% gone, threshold 0.000",
    ]
