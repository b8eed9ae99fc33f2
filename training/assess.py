"""Measures one training run: ranking, retrieval, unknown users, end to end, each beside baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from feature_repo import names
from training.baselines.ease import Ease, ease_weights
from training.baselines.item_knn import ItemKNN, binary
from training.baselines.lightgbm import fit_lightgbm
from training.baselines.logistic_regression import fit_logistic_regression
from training.baselines.top_pop import TopPop
from training.config import Quality, TrainingSettings
from training.encoders import Encoders
from training.evaluate import Report, evaluate_lists, evaluate_scores, evaluate_vectors, reorder
from training.heldout import HeldOut, held_out, interaction_matrix, is_before
from training.learn import Learned, Rows, fit_ranker
from training.ordering import order_scores
from training.prepared import Prepared
from training.ranking import RankingRows
from training.ranking_metrics import auc, bootstrap_users, log_loss, ranking_metrics
from training.raw import Array
from training.slates import make_slates
from training.snapshot import unknown_user

RANKERS: dict[str, Callable[..., Any]] = {
    "LightGBM": fit_lightgbm,
    "logistic regression": fit_logistic_regression,
}
DENSE_ITEMS = 10_000
"""Items up to which the baselines that need an (I,I) matrix are fitted."""

Vectors = npt.NDArray[np.float32]


def assess(prepared: Prepared, settings: TrainingSettings, rows: Rows, learned: Learned, seed: int) -> Report:
    """Measures a run on the test part."""
    report = Report(is_full=settings.quality is Quality.FULL)
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    users, items = learned.retrieval.vectors(held, split.validate_until)
    assess_ranking(report, prepared, settings, rows, learned, seed)
    report.add("retrieval", "two-tower", evaluate_vectors(held, users, items))
    assess_retrieval_baselines(report, prepared, held)
    assess_unknown_users(report, prepared, learned, held, items)
    assess_end_to_end(report, prepared, learned, held, settings.k)
    return report


def test_facts(prepared: Prepared, rows: Rows) -> dict[str, Any]:
    """Counts what the test part holds."""
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    return {
        "from": split.validate_until.isoformat(),
        "until": split.test_until.isoformat(),
        "rows": len(rows.test),
        "users": len(held.user_rows),
        "relevant": int(held.relevant.nnz),
    }


def assess_ranking(
    report: Report, prepared: Prepared, settings: TrainingSettings, rows: Rows, learned: Learned, seed: int
) -> None:
    """Adds the ranker's metrics on the test's exposures in context, and where asked for the baselines'."""
    fields, test = learned.encoders.fields, rows.test.encoded(learned.encoders, prepared.dataset)
    add_ranker(report, "ranking", "DLRM", prepared, rows, learned.dlrm.predict(test))
    if settings.quality is Quality.DEFAULT:
        return
    parts = RankerParts.of(prepared, rows, learned.encoders)
    for name, fit in RANKERS.items():
        ranker = fit(fields, *parts.without_unknown(), seed)
        add_ranker(report, "ranking", name, prepared, rows, ranker.predict(test))
    if not prepared.dataset.context or settings.quality is not Quality.FULL:
        return
    bare = {name: field for name, field in fields.items() if name not in prepared.dataset.context}
    dlrm = fit_ranker(prepared, learned.encoders, rows, settings, seed, bare)
    add_ranker(report, "ranking_without_context", "DLRM", prepared, rows, dlrm.predict(test))
    for name, fit in RANKERS.items():
        ranker = fit(bare, *parts.without_unknown(), seed)
        add_ranker(report, "ranking_without_context", name, prepared, rows, ranker.predict(test))


@dataclass(frozen=True, eq=False)
class RankerParts:
    """Encoded rows and target labels of train and validation, for rankers that know one label."""

    train: dict[str, Array]
    labels: Vectors
    validation: dict[str, Array]
    validation_labels: Vectors

    @classmethod
    def of(cls, prepared: Prepared, rows: Rows, encoders: Encoders) -> RankerParts:
        """Encodes the exposures of both parts."""
        dataset = prepared.dataset
        return cls(
            rows.train.encoded(encoders, dataset),
            target_labels(prepared, rows.train),
            rows.validation.encoded(encoders, dataset),
            target_labels(prepared, rows.validation),
        )

    def without_unknown(self) -> tuple[dict[str, Array], Vectors, dict[str, Array], Vectors]:
        """Leaves out the rows whose target is unknown."""
        train, validation = ~np.isnan(self.labels), ~np.isnan(self.validation_labels)
        return (
            {name: values[train] for name, values in self.train.items()},
            self.labels[train],
            {name: values[validation] for name, values in self.validation.items()},
            self.validation_labels[validation],
        )


def target_labels(prepared: Prepared, rows: RankingRows) -> Vectors:
    """Gives the target of every row: 0, 1 or NaN."""
    return rows.labels[:, prepared.dataset.labels.index(prepared.dataset.target)]


def add_ranker(
    report: Report, section: str, model: str, prepared: Prepared, rows: Rows, scores: Vectors
) -> None:
    """Adds the metrics of predicted probabilities of the test's exposures."""
    labels = target_labels(prepared, rows.test)
    known = ~np.isnan(labels)
    users, labels, scores = (
        rows.test.frame[names.USER_ID].to_numpy(np.int64)[known],
        labels[known],
        scores[known],
    )
    report.add(section, model, ranking_metrics(users, labels, scores))
    if report.is_full:
        row = report.sections[section][model]
        row["auc_interval"] = list(bootstrap_users(lambda at: auc(labels[at], scores[at]), users))
        row["log_loss_interval"] = list(bootstrap_users(lambda at: log_loss(labels[at], scores[at]), users))


def assess_retrieval_baselines(report: Report, prepared: Prepared, held: HeldOut) -> None:
    """Adds what simpler models of the train part's interactions retrieve."""
    split = prepared.split
    in_train, before = is_before(prepared, split.train_until), is_before(prepared, split.validate_until)
    timed = prepared.interactions[prepared.dataset.timestamp].notna().to_numpy()
    train, history = interaction_matrix(prepared, in_train), interaction_matrix(prepared, before)
    popular = TopPop(interaction_matrix(prepared, in_train & timed, prepared.dataset.target))
    report.add("retrieval", "TopPop", evaluate_scores(held, popular, history))
    if train.shape[1] > DENSE_ITEMS:
        return
    report.add("retrieval", "ItemKNN", evaluate_scores(held, ItemKNN(binary(train)), history))
    weights = ease_weights(train, ridge=500.0)
    report.add("retrieval", "EASE", evaluate_scores(held, Ease(weights), history))
    with_prior = Ease(weights, popular.counts, prior=0.01)
    report.add("retrieval", "EASE with popularity", evaluate_scores(held, with_prior, history))


def assess_unknown_users(
    report: Report, prepared: Prepared, learned: Learned, held: HeldOut, items: Vectors
) -> None:
    """Adds what the same users get when nothing is known of them, as an unknown user is served."""
    raw = unknown_user(prepared.dataset)
    columns = learned.encoders.encode_all(raw)
    two_tower = learned.retrieval.two_tower
    one = two_tower.encode_users({name: columns[name] for name in two_tower.user_features})
    everyone = np.repeat(one, len(held.user_rows), axis=0)
    report.add("unknown_users", "two-tower", evaluate_vectors(held, everyone, items))
    report.sections["unknown_users"]["TopPop"] = dict(report.sections["retrieval"]["TopPop"])


def assess_end_to_end(report: Report, prepared: Prepared, learned: Learned, held: HeldOut, k: int) -> None:
    """Adds the served order; for comparison the ranker's alone, the retrieval's own, and the baselines'."""
    slates = make_slates(
        prepared,
        learned.encoders,
        learned.retrieval,
        learned.dlrm,
        held,
        prepared.split.validate_until,
        k,
    )
    served = order_scores(slates.ranking_scores, slates.retrieval_scores, learned.order)
    orders = {"two-tower, then DLRM": served, "DLRM's order alone": slates.ranking_scores}
    for model, scores in orders.items():
        report.add("end_to_end", model, evaluate_lists(held, reorder(slates.items, scores)))
    report.add("end_to_end", "two-tower alone", evaluate_lists(held, slates.items))
    for model, row in report.sections["retrieval"].items():
        if model != "two-tower":
            report.sections["end_to_end"][f"{model} alone"] = {
                name: value for name, value in row.items() if "@10" in name and "@100" not in name
            }
