"""DynaSegFormer (Bai, Mao and Nair, Dynamically Pruning SegFormer for Efficient Semantic Segmentation, ICASSP 2022).

    G = MLP(LN(mean over tokens of X) W1),   M = Top-r(G),   Y = X (W1 o M),   Z = Y (W2 o M^T)
    loss + lambda_m sum |G|,   sparsity_t = sparsity min(1, t / T)

Symbols: X = a layer's input, W1 W2 = two linear layers in a row, G = one number a neuron from the gate predictor,
M = the largest of them with their values, others 0; lambda_m = 0.005, T = half of the training. Needs: a trained
network, data, and for distillation the trained network again as teacher (train.distill).

Differs. Queries and keys of a head share one gate, and each head keeps equally many positions: their product needs it.
A gate multiplies once, where a neuron is read (printed: in W1 and again in W2), so that a closed neuron is removed, its
bias and what lies between included. Gates start at 1, not at random; ties go to the larger weights. The predictor's
hidden width, not printed, is a 16th of the layer: 0.45 and 3.38 M parameters for MiT-B0 and B2, the paper's 0.44 and
3.35. lambda_m weighs the mean over a layer's neurons; the printed sum, reduction="sum", pulls at each gate as many
times as hard as its layer has neurons (claim D1 has both). The additive decoder is made from the trained one without
training, exactly (decoder.py).

    dynamic = make_dynamic(additive_decoder(model), sparsity=0.5)
    gates = GateTraining(0.5, steps=500)
    student = distill(dynamic, model, loader, ..., observer=gates, penalty=gates.penalty).model
    fast = use_path(student, "gathered")              # the same outputs, only the work that is needed

Files, in reading order: gate (the predictor), gather (only the kept work), layers (both paths), places (where gates
go), insert (make_dynamic), training (annealing, L1), decoder (addition), cost (MACs by part), statistics (neuron
types), narrow (the static comparator made permanent).
"""

from prunekit.methods.dynasegformer.cost import Cost, Saving, cost, saving
from prunekit.methods.dynasegformer.decoder import additive_decoder
from prunekit.methods.dynasegformer.gate import Choice, Gate, MagnitudeGate, Selector, kept_at
from prunekit.methods.dynasegformer.insert import (
    gates_of,
    make_dynamic,
    make_static,
    set_sparsity,
    use_path,
)
from prunekit.methods.dynasegformer.narrow import narrow
from prunekit.methods.dynasegformer.places import Places, places
from prunekit.methods.dynasegformer.statistics import GateCounts, gate_statistics, masks_of, neuron_magnitudes
from prunekit.methods.dynasegformer.training import GateTraining

__all__ = [
    "Choice",
    "Cost",
    "Gate",
    "GateCounts",
    "GateTraining",
    "MagnitudeGate",
    "Places",
    "Saving",
    "Selector",
    "additive_decoder",
    "cost",
    "gate_statistics",
    "gates_of",
    "kept_at",
    "make_dynamic",
    "make_static",
    "masks_of",
    "narrow",
    "neuron_magnitudes",
    "places",
    "saving",
    "set_sparsity",
    "use_path",
]
