"""The ledger: one file per run, the same run replaces itself, tables count seeds and show the spread."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from prunekit.course import ledger
from prunekit.errors import DataError, InputError


def put(seed: int = 0, miou: float = 0.5, **other: object) -> Path:
    settings = {"macs_ratio": 0.5, **other}
    return ledger.record("T1", method="l1", seed=seed, metrics={"miou": miou}, seconds=1.23456, settings=settings)


def test_a_record_holds_the_run_and_where_it_ran():
    path = put()
    (entry,) = ledger.load("T1")
    assert entry.metrics == {"miou": 0.5} and entry.settings == {"macs_ratio": 0.5}
    assert (entry.scale, entry.method, entry.seed, entry.seconds) == ("mini", "l1", 0, 1.235)
    assert entry.versions["torch"] == torch.__version__.split("+")[0] or entry.versions["torch"] == torch.__version__
    assert entry.device and entry.commit
    assert json.loads(path.read_text())["claim"] == "T1"
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no part file stays behind"


def test_the_same_run_replaces_its_record_and_other_settings_do_not():
    assert put(miou=0.4) == put(miou=0.6)
    assert [r.metrics["miou"] for r in ledger.load()] == [0.6]
    put(macs_ratio=0.75)
    assert len(ledger.load()) == 2
    assert ledger.load("T2") == ()


def test_tensors_become_lists_and_absent_classes_null():
    iou = torch.tensor([0.5, math.nan])
    ledger.record("T1", method="l1", seed=0, metrics={"iou": iou}, seconds=1)
    assert ledger.load()[0].metrics["iou"] == [0.5, None]


@pytest.mark.parametrize("value", [math.inf, object()])
def test_what_json_cannot_hold_is_refused(value: object):
    with pytest.raises(InputError, match="'miou' is .* the ledger cannot hold"):
        ledger.record("T1", method="l1", seed=0, metrics={"miou": value}, seconds=1)
    assert ledger.load() == ()


def test_a_file_that_is_no_record_is_named():
    path = put()
    path.write_text(path.read_text()[:20])
    with pytest.raises(DataError, match=path.name):
        ledger.load()
    path.write_text("{}")
    with pytest.raises(DataError, match="fields differ: claim, commit"):
        ledger.load()


def test_the_table_shows_mean_and_spread_and_says_when_seeds_are_few():
    for seed, miou in enumerate([0.4, 0.5, 0.6]):
        put(seed, miou)
    put(0, 0.3, macs_ratio=0.75)
    text = ledger.table(ledger.load(), ["miou", "latency_ms"], settings=["macs_ratio"])
    assert text.splitlines()[0] == "| scale | method | macs_ratio | miou | latency_ms | seeds |"
    assert "| mini | l1 | 0.5 | 0.500 ± 0.100 | - | 3 |" in text
    assert "| mini | l1 | 0.75 | 0.300 | - | 1 (open) |" in text


def test_every_claim_of_the_stored_ledger_is_put_into_words():
    from prunekit.course import site
    from prunekit.course.claims import PAPERS
    from prunekit.course.presets import CLAIMS

    stored = {record.claim for record in ledger.load(folder=site.need_checkout("the ledger") / "book/results")}
    assert stored <= {*CLAIMS, *(claim.id for claims in PAPERS.values() for claim in claims)}
    assert "Q1" in stored
