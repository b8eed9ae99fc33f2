"""What users get of whom only their newest items are known: neither id nor profile, nor what came before."""

from __future__ import annotations

from dataclasses import replace

from training.data.prepared import Prepared
from training.evaluation.report import Report
from training.examples.positives import UserHistories
from training.examples.split import HeldOut, first_users
from training.examples.strangers import FEW, with_strangers
from training.slates.search import evaluate_lists, reorder
from training.slates.slates import Learned, rank_candidates

FEW_USERS = 2_000
"""Most users who are asked for."""


def assess_few_items(report: Report, prepared: Prepared, learned: Learned, held: HeldOut, k: int) -> None:
    """Adds the served slates of the same users as strangers with so many items each."""
    some, instant = first_users(held, FEW_USERS), prepared.split.validate_until
    for count in (0, *FEW):
        known, strangers = with_strangers(prepared, some, instant, count)
        retriever = replace(learned.retriever, histories=UserHistories.of(known, learned.encoders))
        anew = replace(learned, retriever=retriever)
        slates = rank_candidates(known, anew, strangers, retriever.vectors(strangers, instant), instant, k)
        lists = reorder(slates.items, slates.served(learned.order))
        noun = "item" if count == 1 else "items"
        report.add("few_items", f"slate, {count} {noun} known", evaluate_lists(some, lists))
