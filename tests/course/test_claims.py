"""Claims against the ledger: what counts as reproduced, what does not, and that the tables show every run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunekit.course import claims, ledger
from prunekit.course.claims import Claim, Need, outcomes
from prunekit.errors import InputError

CLAIM = Claim("S2", "says", "Table 9", {"js": "81.3", "dot": "80.5"}, needs=(Need("js", ">", "dot"),))


def put(method: str, *values: float, claim: str = "S2", **settings: object) -> None:
    for seed, value in enumerate(values):
        given = {"model": "mini", "macs_ratio": 0.75, **settings}
        ledger.record(claim, method=method, seed=seed, metrics={"miou": value}, seconds=1, settings=given)


def word(relation: str, *values: float) -> str:
    put("js", *values)
    put("dot", 0.600, 0.601, 0.602)
    claim = Claim("S2", "says", "Table 9", needs=(Need("js", relation, "dot"),))  # type: ignore[arg-type]
    (found,) = outcomes(claim, ledger.load())
    return found.word


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.700, 0.701, 0.702), ("reproduced", "reproduced", "not reproduced")),  # clearly better
        ((0.601, 0.602, 0.603), ("not reproduced", "reproduced", "reproduced")),  # the same
        ((0.611, 0.612, 0.613), ("reproduced", "reproduced", "not reproduced")),  # a little better
        ((0.560, 0.602, 0.644), ("not reproduced", "not reproduced", "not reproduced")),  # noise shows nothing
        ((0.500, 0.501, 0.502), ("not reproduced", "not reproduced", "not reproduced")),  # clearly worse
        ((0.70, 0.71), ("open", "open", "open")),
    ],
)
def test_the_three_relations(values: tuple[float, ...], words: tuple[str, ...]):
    assert tuple(word(relation, *values) for relation in (">", ">=", "=")) == words


@pytest.mark.parametrize("relation", [">", ">=", "="])
def test_a_noisy_third_method_changes_no_verdict(relation: str):
    pair = {"a": (0.700, 0.701, 0.702), "b": (0.670, 0.671, 0.672)}
    noisy = {**pair, "c": (0.2, 0.5, 0.8)}
    need = Need("b", relation, "a")  # type: ignore[arg-type]
    assert need.holds(pair) is need.holds(noisy) is False
    assert Need("a", ">", "b").holds(noisy)


@pytest.mark.parametrize(
    ("seconds", "held"), [((11.0, 11.1, 11.2), True), ((11.0, 12.0, 13.0), False), ((13.0,) * 3, False)]
)
def test_a_cost_is_judged_by_its_own_metric_and_noise_never_helps(seconds: tuple[float, ...], held: bool):
    for method, mious, costs in (("js", (0.70, 0.71, 0.72), seconds), ("dot", (0.60, 0.61, 0.62), (10.0, 10.1, 10.2))):
        for seed, (miou, cost) in enumerate(zip(mious, costs, strict=True)):
            metrics = {"miou": miou, "seconds": cost}
            ledger.record("S2", method=method, seed=seed, metrics=metrics, seconds=1, settings={"model": "mini"})
    cheap = Need("js", "<=", "dot", metric="seconds", times=1.18)
    (found,) = outcomes(Claim("S2", "says", "Table 9", needs=(*CLAIM.needs, cheap)), ledger.load())
    assert (cheap in found.held) is held and CLAIM.needs[0] in found.held and str(cheap) == "js <= 1.18 × dot (seconds)"
    assert found.values["js"] == (0.70, 0.71, 0.72)
    (found,) = outcomes(
        Claim("S2", "says", "Table 9", needs=(Need("js", "<=", "dot", metric="minutes"),)), ledger.load()
    )
    assert found.word == "open"


def test_a_claim_that_holds_in_part_says_in_which():
    put("js", 0.70, 0.71, 0.72)
    put("dot", 0.60, 0.61, 0.62)
    put("kl", 0.70, 0.71, 0.72)
    claim = Claim("S2", "says", "Table 9", needs=claims.above("js", "dot", "kl"))
    (found,) = outcomes(claim, ledger.load())
    assert found.word == "partly"
    assert (list(map(str, found.held)), list(map(str, found.broken))) == (["js > dot"], ["js > kl"])


def test_a_missing_method_leaves_the_claim_open_and_comparisons_do_not_mix():
    put("js", 0.70, 0.71, 0.72)
    put("dot", 0.60, 0.61, 0.62, macs_ratio=0.5)  # another comparison
    assert [found.word for found in outcomes(CLAIM, ledger.load())] == ["open", "open"]


def test_the_table_has_the_papers_numbers_beside_ours():
    put("js", 0.709, 0.710, 0.711)
    put("kl", 0.709, 0.710, 0.711)
    put("dice", 0.709, 0.710, 0.711)
    put("dot", 0.60, 0.61, 0.62)
    text = str(claims.table("S2"))
    assert "| js | 81.3 | 71.0 ± 0.1 |" in text and "| dot | 80.5 | 61.0 ± 1.0 |" in text
    assert "ours: mini, mini, −75% MACs" in text and "**reproduced** (3 seeds)" in text
    assert claims.table("S2")._repr_markdown_() == text


def test_a_bar_in_a_name_does_not_end_its_cell():
    put("|map|, sum", 0.7, claim="S8")
    assert r"| \|map\|, sum | - | 70.0 |" in str(claims.table("S8"))


def test_a_claim_without_runs_shows_the_paper_alone_and_says_open(tmp_path: Path):
    text = str(claims.table("S1", "M4", folder=tmp_path))
    assert "| sirfp | 81.3 |" in text and text.count("open, no runs yet") == 2


def test_every_claim_has_its_own_id_and_asks_only_for_relations():
    every = [claim for paper in claims.PAPERS.values() for claim in paper]
    assert len({claim.id for claim in every}) == len(every)
    assert {re.sub(r"\d", "", claim.id) for claim in every} == {"S", "M", "B", "D", "E"}
    for claim in every:
        assert all(need.relation in (">", ">=", "=", "<=") and need.left != need.right for need in claim.needs)


def test_an_unknown_claim_is_named_with_its_neighbour():
    with pytest.raises(InputError, match="no claim 'S12'; did you mean S"):
        claims.table("S12")


def test_the_overview_has_a_row_for_each_claim():
    put("js", 0.70, 0.71, 0.72)
    text = claims.verdicts(claims.PAPERS["SIRFP"], ledger.load())
    assert text.splitlines()[3].startswith("| S2 |") and text.splitlines()[3].endswith("| open |")
    put("js", 0.70, 0.71, 0.72, how="uniform")
    put("js", 0.70, 0.71, 0.72, how="global")
    assert "| open (global); open (uniform); open (-) |" in claims.verdicts(claims.PAPERS["SIRFP"], ledger.load())
    assert text.count("\n") == 2 + len(claims.PAPERS["SIRFP"])
