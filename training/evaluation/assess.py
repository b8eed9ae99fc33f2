"""Measures one training run: ranking, retrieval, unknown users, end to end, each beside baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from contract import names
from contract.arrays import Doubles, Floats, Ints
from contract.encoders import Field
from training.baselines.lightgbm import fit_lightgbm
from training.baselines.logistic_regression import fit_logistic_regression
from training.config import QualityLevel, TrainingSettings
from training.data.prepared import Prepared
from training.evaluation.few_items import FEW_USERS, assess_few_items
from training.evaluation.new_items import Fit, assess_new_items
from training.evaluation.report import Report
from training.evaluation.retrieval_baselines import baseline_lists
from training.examples.exposures import RankingRows
from training.examples.ranking import RankingExamples, RankingParts, target_labels
from training.examples.snapshot import unknown_user
from training.examples.split import HeldOut, first_users, held_out
from training.metrics.lists import list_metrics
from training.metrics.ranking import auc, bootstrap_users, log_loss, ranking_metrics
from training.metrics.served import coverage, diversity, exposures, gini
from training.models import chosen_ranking
from training.slates.search import evaluate_lists, evaluate_vectors, reorder
from training.slates.slates import Learned, rank_candidates

SERVED = "slates as served"
"""The row of the end-to-end section that requests get."""
RANKERS: dict[str, Callable[..., Any]] = {
    "LightGBM": fit_lightgbm,
    "logistic regression": fit_logistic_regression,
}

POPULAR = ("TopPop", "recent popularity")
"""Baselines that know nobody, beside whom stand users of whom little is known."""


def assess(
    prepared: Prepared,
    settings: TrainingSettings,
    parts: RankingParts,
    examples: RankingExamples,
    learned: Learned,
    seed: int,
    fit: Fit,
) -> Report:
    """Measures a run on the test part; the baselines beside the first seed alone.

    `fit` trains a second retrieval, to which some items are new. Where nobody finds anything new in the test
    part, the ranking of its exposures alone is measured.
    """
    report = Report(is_full=settings.quality is QualityLevel.FULL)
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    is_first = seed == settings.seed
    assess_ranking(report, prepared, settings, parts, examples, learned, seed)
    if is_first and settings.quality is not QualityLevel.DEFAULT:
        assess_ranking_baselines(report, prepared, settings, parts, examples, learned, seed)
    if not len(held.user_rows):
        return report
    vectors = learned.retriever.vectors(held, split.validate_until)
    report.add("retrieval", learned.retriever.model.name, evaluate_vectors(held, *vectors))
    assess_unknown_users(report, prepared, learned, held, vectors[1])
    assess_end_to_end(report, prepared, learned, held, vectors, settings.k)
    assess_few_items(report, prepared, learned, held, settings.k)
    if is_first:
        assess_retrieval_baselines(report, prepared, held, vectors[1])
        if report.is_full:
            for name, values in assess_new_items(prepared, learned, fit, seed, settings.k).items():
                report.add("new_items", name, values)
    return report


def test_facts(prepared: Prepared, parts: RankingParts) -> dict[str, Any]:
    """Counts what the test part holds; two of the same `fingerprint` ask the same of the same users."""
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    digest = hashlib.sha256(prepared.dataset.name.encode())
    for part in (prepared.items[names.ITEM_ID].to_numpy(np.int64), held.user_ids):
        digest.update(part.tobytes())
    for matrix in (held.relevant, held.seen):
        digest.update(matrix.indptr.astype(np.int64).tobytes() + matrix.indices.astype(np.int64).tobytes())
    return {
        "from": split.validate_until.isoformat(),
        "until": split.test_until.isoformat(),
        "rows": len(parts.test),
        "users": len(held.user_rows),
        "relevant": int(held.relevant.nnz),
        "fingerprint": digest.hexdigest(),
    }


def assess_ranking(
    report: Report,
    prepared: Prepared,
    settings: TrainingSettings,
    parts: RankingParts,
    examples: RankingExamples,
    learned: Learned,
    seed: int,
) -> None:
    """Adds the ranker's metrics on the test's exposures in context, and where asked without; nothing where
    all of them have one outcome."""
    if not tells_apart(prepared, parts.test):
        return
    test, name = parts.test.encoded(learned.encoders, prepared.dataset), learned.ranker.name
    add_ranker(report, "ranking", name, prepared, parts.test, learned.ranker.predict(test))
    if prepared.dataset.context and settings.quality is QualityLevel.FULL:
        bare = replace(examples, fields=without_context(prepared, examples.fields), candidates=None)
        ranker = chosen_ranking(settings)(bare, seed)
        add_ranker(report, "ranking_without_context", name, prepared, parts.test, ranker.predict(test))


def assess_ranking_baselines(
    report: Report,
    prepared: Prepared,
    settings: TrainingSettings,
    parts: RankingParts,
    examples: RankingExamples,
    learned: Learned,
    seed: int,
) -> None:
    """Adds what simpler rankers reach on the same encoded rows; nothing where they have nothing to learn, as
    of a log of what was chosen alone, or there is nothing to tell apart."""
    if not tells_apart(prepared, parts.train) or not tells_apart(prepared, parts.test):
        return
    fields, test = learned.encoders.fields, parts.test.encoded(learned.encoders, prepared.dataset)
    exposures = examples.of_target(len(parts.train))
    sections: dict[str, Mapping[str, Field]] = {"ranking": fields}
    if prepared.dataset.context and settings.quality is QualityLevel.FULL:
        sections["ranking_without_context"] = without_context(prepared, fields)
    for section, known in sections.items():
        for name, fit in RANKERS.items():
            ranker = fit(replace(exposures, fields=known), seed)
            add_ranker(report, section, name, prepared, parts.test, ranker.predict(test))


def tells_apart(prepared: Prepared, rows: RankingRows) -> bool:
    """Whether rows hold both outcomes of the target."""
    labels = target_labels(prepared, rows)
    return len(np.unique(labels[~np.isnan(labels)])) > 1


def without_context(prepared: Prepared, fields: Mapping[str, Field]) -> dict[str, Field]:
    """Leaves out what is known at request time alone."""
    return {name: field for name, field in fields.items() if name not in prepared.dataset.context}


def add_ranker(
    report: Report, section: str, model: str, prepared: Prepared, test: RankingRows, scores: Floats
) -> None:
    """Adds the metrics of predicted probabilities of the test's exposures."""
    labels = target_labels(prepared, test)
    known = ~np.isnan(labels)
    users, labels, scores = (
        test.frame[names.USER_ID].to_numpy(np.int64)[known],
        labels[known],
        scores[known],
    )
    report.add(section, model, ranking_metrics(users, labels, scores))
    if report.is_full:
        row = report.sections[section][model]
        row["auc_interval"] = list(bootstrap_users(lambda at: auc(labels[at], scores[at]), users))
        row["log_loss_interval"] = list(bootstrap_users(lambda at: log_loss(labels[at], scores[at]), users))


def assess_retrieval_baselines(report: Report, prepared: Prepared, held: HeldOut, items: Floats) -> None:
    """Adds what simpler models of the same interactions retrieve; `items` (I,D) tell how lists differ."""
    for name, lists in baseline_lists(prepared, held).items():
        values = list_metrics(lists, held.relevant)
        report.add("retrieval", name, values)
        report.add("end_to_end", f"{name} alone", of_slates(held, lists, items))
        if name in POPULAR:
            report.add("unknown_users", name, values)
            some = first_users(held, FEW_USERS)
            report.add("few_items", name, evaluate_lists(some, lists[: len(some.user_rows)]))


def assess_unknown_users(
    report: Report, prepared: Prepared, learned: Learned, held: HeldOut, items: Floats
) -> None:
    """Adds what the same users get when nothing is known of them, as an unknown user is served."""
    raw = unknown_user(prepared.dataset)
    columns = learned.encoders.encode_all(raw)
    model = learned.retriever.model
    one = model.encode_users({name: columns[name] for name in model.user_features})
    everyone = np.repeat(one, len(held.user_rows), axis=0)
    report.add("unknown_users", model.name, evaluate_vectors(held, everyone, items))


def assess_end_to_end(
    report: Report,
    prepared: Prepared,
    learned: Learned,
    held: HeldOut,
    vectors: tuple[Floats, Floats],
    k: int,
) -> None:
    """Adds the served order; for comparison the ranker's alone, what each source gives alone, and the
    baselines'. What all sources retrieve together is measured in the served order, K items deep."""
    slates = rank_candidates(prepared, learned, held, vectors, prepared.split.validate_until, k)
    orders = {
        SERVED: slates.served(learned.order),
        f"{learned.ranker.name}'s order alone": slates.ranking_scores,
    }
    lists = {name: reorder(slates.items, scores) for name, scores in orders.items()}
    for at, name in enumerate([learned.retriever.model.name, *slates.source_scores]):
        lists[f"{name} alone"] = slates.lists.positions[:, at]
    for name, ordered in lists.items():
        report.add("end_to_end", name, of_slates(held, ordered, vectors[1]))
    report.add("retrieval", "all sources, in the served order", list_metrics(lists[SERVED], held.relevant))


def of_slates(held: HeldOut, lists: Ints, items: Floats) -> dict[str, float | Doubles]:
    """Takes ordered lists (U,K) and item vectors (I,D), gives what their first ten find and show."""
    first = lists[:, :10]
    shown = exposures(first, len(items))
    return {
        **evaluate_lists(held, lists),
        "coverage@10": coverage(shown),
        "gini@10": gini(shown),
        "diversity@10": diversity(first, items),
    }
