"""What a reader of the tables must know of the data: where its numbers mean something else than usual."""

from __future__ import annotations

from contract.dataset import SplitBy
from training.data.prepared import Prepared
from training.examples.split import held_out, is_chosen_alone


def notes(prepared: Prepared) -> list[str]:
    """Says a sentence or two each: about a log of what was chosen alone, a split that is none by time, and a
    test without anything to find."""
    said = []
    dataset, split = prepared.dataset, prepared.split
    if is_chosen_alone(prepared, split.train_until):
        said.append(
            f"`{dataset.target}` is 1 in every row: the log holds what was chosen, not what was passed over. "
            "The ranker learns from retrieved candidates, chosen or not; that is measured end to end. Of the "
            "ranking of the log's own rows there is nothing to tell, and the baselines that need both labels "
            "are left out."
        )
    if dataset.split_by is SplitBy.ROWS:
        said.append(
            "Split by rows: the last tenth of every user's rows is the test, the tenth before it validation; "
            "no instant separates them, so what others did later may be known."
        )
    if not len(held_out(prepared, split.validate_until, split.test_until).user_rows):
        said.append(
            "Nobody finds anything new in the test part: retrieval and end to end cannot be measured."
        )
    return said
