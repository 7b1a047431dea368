"""What the papers claim, what they print, and what our runs say: one table a claim, drawn from the ledger.

    claims.table("S1", "S2")        # shows itself in a notebook; `print` it for plain text

A claim is held to what it needs: relations between the means of two methods over seeds (see Need), in every comparison
(scale, network, ratio, planner) for itself.

    a > b    a is better, by more than the seeds       a >= b   a is not worse by more than a point of mIoU
    a = b    the two differ by a point at most         a <= b   a costs no more than b, whatever the seeds

reproduced: all are shown. partly: some are. not reproduced: none is. open: a method has fewer than three seeds.
Only the papers' own numbers are typed here. Not reproduced at mini scale does not mean wrong at the paper's.
"""

from prunekit.course.claims.claim import Claim, Need, Outcome, above, outcomes
from prunekit.course.claims.papers import PAPERS, known
from prunekit.course.claims.table import Table, section, table, verdicts

__all__ = ["PAPERS", "Claim", "Need", "Outcome", "Table", "above", "known", "outcomes", "section", "table", "verdicts"]
