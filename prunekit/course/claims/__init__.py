"""What the papers claim, what they print, and what our runs say: one table a claim, drawn from the ledger.

    claims.table("S1", "S2")        # shows itself in a notebook; `print` it for plain text

A claim is held to what it needs: pairs of methods with a relation between their means over seeds, each judged by the
rule of `verdict`, in every comparison (scale, network, ratio, planner) for itself.

    a > b    a is better by the rule           a >= b   a is not worse            a = b   the two are within noise

reproduced: all pairs hold. partly: some do. not reproduced: none does. open: a pair has fewer than three seeds.
Only the papers' own numbers are typed here. Not reproduced at mini scale does not mean wrong at the paper's.
"""

from prunekit.course.claims.claim import Claim, Need, Outcome, above, outcomes
from prunekit.course.claims.papers import PAPERS, known
from prunekit.course.claims.table import Table, section, table, verdicts

__all__ = ["PAPERS", "Claim", "Need", "Outcome", "Table", "above", "known", "outcomes", "section", "table", "verdicts"]
