"""Taylor (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019).

    s_i = mean over batches of (dL/dg_i)^2,   g_i = a gate on unit i, 1           on="gates"   (their Eq. 8, gates)
    s_i = mean over batches of (sum_{w in w_i} w dL/dw)^2                         on="weights" (their Eq. 7, filters)

To first order, removing unit i changes the loss by -dL/dg_i: a unit that hardly moves it, up or down, can go.
Needs: batches with targets, and the training loss. Coupled layers: a gate sits where the unit is read, whoever made
it, so nothing has to be added up; with weights, the mean over the layers that make it. Differs: the paper sums over a
training run, we take gradients at fixed weights with batch norm on its running statistics (with batch statistics
sum w dL/dw is 0 for any filter in front of a norm: its scale does not matter). Mixed precision: gradients are our
own, so no loss scale is in them.
"""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.errors import InputError
from prunekit.gates import Gated
from prunekit.observe import Batches, filters, gradients, mean_over, of_units
from prunekit.train import segmentation_loss


def score(
    model: nn.Module,
    groups: Groups,
    batches: Batches | None = None,
    *,
    loss_fn: Callable[[Any, Any], Tensor] = segmentation_loss,
    on: Literal["gates", "weights"] = "gates",
) -> Scores:
    """Squared first-order change of the loss when a unit goes, (U,); channels, neurons and heads alike.

    batches: (input, target) pairs, all are used; those without a labelled pixel do not count. Raises ScoreError
    without data, for a loss that is not finite and when no batch gives a gradient; InputError for another `on`.
    """
    if on not in ("gates", "weights"):
        raise InputError(f"on is 'gates' or 'weights', got {on!r}.")
    makers = {name: filters(model, groups, name) for name in groups}
    if on == "gates":
        names = [f"gates.{i}" for i in range(len(groups))]
        squares = [
            [grads[name].double().square().cpu() for name in names]
            for grads in gradients(Gated(model, groups), groups, batches, loss_fn, names, method="taylor")
        ]
        return {name: mean_over(of_group) for name, of_group in zip(groups, zip(*squares), strict=True)}
    tensors = {tensor for of_group in makers.values() for tensor in of_group}
    state, seen = model.state_dict(), {name: [] for name in groups}
    for grads in gradients(model, groups, batches, loss_fn, tensors, method="taylor"):
        for name, group in groups.items():
            for maker in group.producers():
                change_UD = of_units(state[maker.tensor] * grads[maker.tensor], maker)
                seen[name].append(change_UD.double().sum(1).square())
    return {name: mean_over(parts) for name, parts in seen.items()}
