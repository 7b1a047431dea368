"""The paper / ours table: a row for each method, the paper's number beside ours, and the verdict in words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from prunekit.course import ledger, site
from prunekit.course.claims.claim import Claim, Outcome, outcomes
from prunekit.course.claims.papers import known
from prunekit.course.ledger import Record


@dataclass(frozen=True)
class Table:
    """Markdown that shows itself in a notebook."""

    markdown: str

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __str__(self) -> str:
        return self.markdown


def table(*ids: str, folder: Path | None = None) -> Table:
    """The claims' tables, one below the other, from the ledger (or `folder`). InputError for an unknown claim.

    Where there is no ledger (the package alone, without the course's checkout) the paper's numbers stand alone.
    """
    wanted = [known(each) for each in ids]
    here = folder is not None or site.checkout() is not None or "PRUNEKIT_RESULTS" in os.environ
    records = ledger.load(folder=folder) if here else ()
    return Table("\n\n".join(section(claim, records) for claim in wanted) + "\n")


def section(claim: Claim, records: Iterable[Record]) -> str:
    """Markdown of one claim."""
    found = outcomes(claim, records)
    if not claim.prints and not found:
        return f"**{claim.id}. {claim.says}** ({claim.where}): open, no runs yet."
    methods = list(dict.fromkeys([*claim.prints, *(method for each in found for method in each.values)]))
    if claim.prints and found:  # what the paper has not got comes last
        methods.sort(key=lambda method: method not in claim.prints)
    head = ["", f"paper: {claim.unit}", *(f"ours: {title(each, found)}" for each in found)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for method in methods:
        cells = [method, claim.prints.get(method, "-")]
        cells += [spread(each.values.get(method, ()), percent="%" in claim.unit) for each in found]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")  # a bar would end the cell
    said = [f"- {title(each, found)}: {sentence(each)}" for each in found] or ["- open, no runs yet"]
    return "\n".join([f"**{claim.id}. {claim.says}** ({claim.where})", "", *lines, "", *said])


def title(one: Outcome, among: Sequence[Outcome]) -> str:
    """Scale and network, and of the other settings those in which the comparisons on that network differ."""
    words = [str(one.settings["scale"])]
    if "model" in one.settings:
        words.append(str(one.settings["model"]))
    names = [name for name in one.settings if name not in ("scale", "model")]
    peers = [each for each in among if each.settings.get("model") == one.settings.get("model")]
    differ = [name for name in names if len({repr(each.settings.get(name)) for each in peers}) > 1]
    for name in dict.fromkeys(["macs_ratio", *differ]):
        if name in one.settings:
            value: Any = one.settings[name]
            words.append(f"−{value:.0%} MACs" if name == "macs_ratio" else str(value))
    return ", ".join(words)


def spread(values: Sequence[float], *, percent: bool) -> str:
    """Mean ± spread over seeds, in the paper's unit."""
    if not values:
        return "-"
    times, digits = (100, 1) if percent else (1, 2)
    numbers = [mean(values), *([stdev(values)] if len(values) > 1 else [])]
    return " ± ".join(f"{times * number:.{digits}f}" for number in numbers)


def sentence(one: Outcome) -> str:
    """The verdict, and which of the pairs hold."""
    seeds = min((len(values) for values in one.values.values()), default=0)
    if one.word == "open":
        return f"open ({seeds} seed{'s' if seeds != 1 else ''} of {', '.join(one.values)})"
    parts = [f"**{one.word}** ({seeds} seeds)"]
    if one.held and one.broken:
        parts.append("shown: " + ", ".join(map(str, one.held)))
    if one.broken:
        parts.append("not shown: " + ", ".join(map(str, one.broken)))
    return "; ".join(parts)


def verdicts(claims: Iterable[Claim], records: Sequence[Record]) -> str:
    """Markdown: one row a claim, with the verdict of every comparison, narrow enough for a phone."""
    lines = ["| claim | says | here |", "|" + " --- |" * 3]
    for claim in claims:
        found = outcomes(claim, records)
        words = [each.word if len(found) == 1 else f"{each.word} ({what_differs(each, found)})" for each in found]
        lines.append(f"| {claim.id} | {claim.says} | {'; '.join(words) or 'open'} |")
    return "\n".join(lines) + "\n"


def what_differs(one: Outcome, among: Sequence[Outcome]) -> str:
    """The settings that set this comparison apart from the claim's others: the network, if no other has the same."""
    names = dict.fromkeys(name for each in among for name in each.settings)
    peers = [each for each in among if each.settings.get("model") == one.settings.get("model")]
    differ = [name for name in names if len({repr(each.settings.get(name)) for each in peers}) > 1]
    if len(peers) < len(among):
        differ = ["model", *differ]
    return ", ".join(f"{one.settings.get(name, '-')}" for name in differ)
