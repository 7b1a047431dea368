"""HRank (Lin et al., HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020). s_i = mean rank of unit i's map.

Symbols: the map is the H x W matrix that the next layer reads (after norm and activation), one per image. A map of low
rank is made of few patterns. Needs: batches; targets are not looked at. Heads: the rank of the tokens x d matrix that
a head gives. Single neurons give one number a token, a vector, whose rank says nothing: refused.

Ranks are whole numbers, and on small maps most of them tie. Ties are broken by the map's mean energy, scaled so that
it never outweighs a difference in rank: floor(s_i * images) / images is the plain mean rank.
How: rank = number of eigenvalues of the smaller Gram matrix, in float64, above the tolerance that
torch.linalg.matrix_rank uses for float32 maps; all maps of a layer at once.
"""

import torch
from torch import Tensor, nn

from prunekit.core import Groups, Scores
from prunekit.errors import ScoreError
from prunekit.observe import Batches, see_maps


def score(model: nn.Module, groups: Groups, batches: Batches | None = None) -> Scores:
    """Mean rank of each unit's feature map, ties broken by energy, (U,).

    batches: (input, target) pairs, all are used. Raises ScoreError without data, for activations that are not finite,
    and for groups whose activations form no matrix (single neurons).
    """
    ranks: dict[str, Tensor] = {name: torch.zeros(group.size).double() for name, group in groups.items()}
    energy, images = {name: ranks[name].clone() for name in groups}, dict.fromkeys(groups, 0)

    def see(name: str, x_BUK: Tensor) -> None:
        maps_BUHW = x_BUK if groups[name].kind == "head" else x_BUK[:, :, 0]
        if maps_BUHW.ndim != 4 or (groups[name].kind != "head" and x_BUK.shape[2] > 1):
            raise ScoreError(
                f"HRank ranks matrices, and a unit of '{name}' gives {tuple(x_BUK.shape[2:])} numbers, no H x W map. "
                "Score the others: groups.only([...])."
            )
        ranks[name] += rank(maps_BUHW).sum(0).cpu()
        energy[name] += maps_BUHW.double().square().mean((2, 3)).sum(0).cpu()
        images[name] += len(maps_BUHW)

    see_maps(model, groups, batches, see, method="hrank")
    ties = {name: e_U / e_U.max().clamp_min(1e-300) * 0.999 for name, e_U in energy.items()}
    return {name: (ranks[name] + ties[name]) / images[name] for name in groups}


def rank(maps_BUHW: Tensor) -> Tensor:
    """The rank of each H x W matrix, (B, U): singular values above max(H, W) * eps * the largest of the matrix."""
    x = maps_BUHW.double() if maps_BUHW.shape[2] <= maps_BUHW.shape[3] else maps_BUHW.double().mT
    squares_BUN = torch.linalg.eigvalsh(x @ x.mT)
    tolerance = max(maps_BUHW.shape[2:]) * torch.finfo(torch.float32).eps
    return (squares_BUN > tolerance**2 * squares_BUN[..., -1:].clamp_min(0)).sum(-1)
