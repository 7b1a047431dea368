"""The certificate must fail when it should: each test plants one mistake."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import nets

from prunekit.core import Groups, Member, PruningPlan
from prunekit.errors import CertificateError, InputError
from prunekit.surgery import check_equivalence, find_groups, mask, prune

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def setup(net: type[nn.Module] = nets.Residual):
    torch.manual_seed(0)
    model = net()
    groups = find_groups(model, X)
    return model, groups, nets.random_plan(groups, 0.5)


def misread(groups: Groups, name: str) -> Groups:
    """The same groups, but the readers' positions of one group are rotated by one: a wrong index map."""
    group = groups[name]

    def rotate(m: Member) -> Member:
        return dataclasses.replace(m, index=m.index.roll(1, 0)) if m.role == "consumer" else m

    wrong = dataclasses.replace(group, members=tuple(rotate(m) for m in group.members))
    return dataclasses.replace(groups, table={**groups.table, name: wrong})


def test_a_right_cut_passes_and_says_so() -> None:
    model, groups, plan = setup()
    certificate = check_equivalence(model, prune(model, groups, plan), groups, plan, X)
    assert certificate.max_error < 1e-12 < certificate.control
    assert "masked == pruned" in str(certificate)


@pytest.mark.parametrize("name", ["stem", "inner"])
def test_a_wrong_index_map_fails(name: str) -> None:
    model, groups, plan = setup()
    wrong = misread(groups, name)
    with pytest.raises(CertificateError, match="pruned and masked outputs differ"):
        check_equivalence(model, prune(model, wrong, plan), wrong, plan, X)


def test_a_forgotten_reader_fails() -> None:
    """The head's reads of 'stem' are hidden from the mask only, as if a rule had missed them."""
    model, groups, plan = setup()
    group = groups["stem"]
    hidden = tuple(dataclasses.replace(m, role="follower") if m.tensor == "head.weight" else m for m in group.members)
    wrong = dataclasses.replace(groups, table={**groups.table, "stem": dataclasses.replace(group, members=hidden)})
    with pytest.raises(CertificateError, match="a channel is read that the groups do not know about"):
        check_equivalence(model, prune(model, wrong, plan), wrong, plan, X)


def test_another_plan_of_the_same_sizes_fails() -> None:
    model, groups, plan = setup()
    other = nets.random_plan(groups, 0.5, seed=5)
    with pytest.raises(CertificateError, match="does not hold the kept weights"):
        check_equivalence(model, prune(model, groups, other), groups, plan, X)


def test_another_size_fails() -> None:
    model, groups, plan = setup()
    small = prune(model, groups, nets.random_plan(groups, 0.25))
    with pytest.raises(CertificateError, match=r"should be \(4, 3, 3, 3\) after this plan, it is \(6, 3, 3, 3\)"):
        check_equivalence(model, small, groups, plan, X)


def test_a_model_that_computes_something_else_fails() -> None:
    model, groups, plan = setup()
    small = prune(model, groups, plan)
    small.head.register_forward_hook(lambda m, a, out: out * 1.0001)
    with pytest.raises(CertificateError, match="pruned and masked outputs differ"):
        check_equivalence(model, small, groups, plan, X)


def test_a_changed_weight_fails() -> None:
    model, groups, plan = setup()
    small = prune(model, groups, plan)
    with torch.no_grad():
        small.inner.weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(CertificateError, match=r"'inner.weight' does not hold the kept weights"):
        check_equivalence(model, small, groups, plan, X)


def test_a_blind_check_is_refused() -> None:
    model, groups, plan = setup()
    for layer in (model.stem, model.back):  # both makers of the sum: nothing that is cut can be seen in the output
        layer.register_forward_hook(lambda m, a, out: out * 0)
    only = PruningPlan({"stem": 8}, {"stem": plan.keep["stem"]})
    with pytest.raises(CertificateError, match="the check is blind"):
        check_equivalence(model, prune(model, groups, only), groups, only, X)


def test_layers_of_zeros_do_not_blind_it() -> None:
    """Freshly made networks often end in zeros; a cut before them can be checked all the same."""
    model, groups, plan = setup()
    with torch.no_grad():
        model.head.weight.zero_()
    assert check_equivalence(model, prune(model, groups, plan), groups, plan, X).control > 1e-3


def test_a_wrong_device_is_named() -> None:
    model, groups, plan = setup()
    with pytest.raises(InputError, match="example is on meta"):
        check_equivalence(model, prune(model, groups, plan), groups, plan, X.to("meta"))


def test_the_mask_zeroes_reads_not_makers() -> None:
    model, groups, plan = setup(nets.Chain)
    masked = mask(model, groups, plan)
    gone = [u for u in range(8) if u not in plan.keep["a"]]
    assert masked.b.weight[:, gone].abs().sum() == 0
    assert torch.equal(masked.a.weight, model.a.weight)
    # zeroing the maker instead leaks through sigmoid(shift): the two differ, which is why reads are zeroed
    naive = copy.deepcopy(model).eval()
    with torch.no_grad():
        naive.a.weight[gone], naive.a.bias[gone] = 0, 0
        assert not torch.allclose(naive(X), masked.eval()(X), atol=1e-3)


def test_neither_model_is_changed() -> None:
    model, groups, plan = setup()
    small = prune(model, groups, plan)
    before = [copy.deepcopy(m.state_dict()) for m in (model, small)]
    model.train()
    check_equivalence(model, small, groups, plan, X)
    for m, state in zip((model, small), before):
        assert m.training
        assert all(torch.equal(t, state[n]) and t.dtype == torch.float32 for n, t in m.state_dict().items())
