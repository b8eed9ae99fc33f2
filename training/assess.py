"""Measures one training run: ranking, retrieval, unknown users, end to end, each beside baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from training.baselines.ease import Ease, ease_weights
from training.baselines.item_knn import ItemKNN, binary
from training.baselines.top_pop import TopPop
from training.config import Quality, TrainingSettings
from training.evaluate import Report, evaluate_lists, evaluate_scores, evaluate_vectors, reorder, retrieve
from training.heldout import HeldOut, held_out, interaction_matrix, is_before
from training.learn import Learned, Rows
from training.prepared import Prepared
from training.ranking_metrics import ranking_metrics
from training.snapshot import Candidates, items_as_of, unknown_user, users_as_of

DENSE_ITEMS = 10_000
"""Items up to which the baselines that need an (I,I) matrix are fitted."""
USERS_AT_A_TIME = 256

Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def assess(prepared: Prepared, settings: TrainingSettings, rows: Rows, learned: Learned) -> Report:
    """Measures a run on the test part."""
    report = Report(is_full=settings.quality is Quality.FULL)
    split = prepared.split
    held = held_out(prepared, split.validate_until, split.test_until)
    users, items = vectors(prepared, learned, held)
    assess_ranking(report, prepared, rows, learned)
    report.add("retrieval", "two-tower", evaluate_vectors(held, users, items))
    assess_retrieval_baselines(report, prepared, held)
    assess_unknown_users(report, prepared, learned, held, items)
    assess_end_to_end(report, prepared, learned, held, retrieve(held, users, items, settings.k))
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


def vectors(prepared: Prepared, learned: Learned, held: HeldOut) -> tuple[Vectors, Vectors]:
    """Gives the vectors of the held-out users as of the start of the test, and of the catalogue."""
    columns = learned.histories.as_of(held.user_rows, prepared.split.validate_until)
    return learned.two_tower.encode_users(columns), learned.two_tower.encode_items(learned.catalogue)


def assess_ranking(report: Report, prepared: Prepared, rows: Rows, learned: Learned) -> None:
    """Adds the ranker's metrics on the test's exposures, with their context."""
    encoded = rows.test.encoded(learned.encoders, prepared.dataset)
    scores = learned.dlrm.predict(encoded)
    users = rows.test.frame["user_id"].to_numpy(np.int64)
    labels = rows.test.labels[:, prepared.dataset.labels.index(prepared.dataset.target)]
    is_known = ~np.isnan(labels)
    report.add("ranking", "DLRM", ranking_metrics(users[is_known], labels[is_known], scores[is_known]))


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
    ease = Ease(ease_weights(train, ridge=500.0))
    report.add("retrieval", "EASE", evaluate_scores(held, ease, history))


def assess_unknown_users(
    report: Report, prepared: Prepared, learned: Learned, held: HeldOut, items: Vectors
) -> None:
    """Adds what the same users get when nothing is known of them, as an unknown user is served."""
    raw = unknown_user(prepared.dataset)
    columns = learned.encoders.encode_all(raw)
    one = learned.two_tower.encode_users({name: columns[name] for name in learned.two_tower.user_features})
    everyone = np.repeat(one, len(held.user_rows), axis=0)
    report.add("unknown_users", "two-tower", evaluate_vectors(held, everyone, items))
    report.sections["unknown_users"]["TopPop"] = dict(report.sections["retrieval"]["TopPop"])


def assess_end_to_end(
    report: Report, prepared: Prepared, learned: Learned, held: HeldOut, retrieved: Ints
) -> None:
    """Adds the served order, and for comparison the retrieval's own, and EASE's."""
    at = prepared.split.validate_until
    candidates = Candidates(
        prepared.dataset, learned.encoders, users_as_of(prepared, at), items_as_of(prepared, at)
    )
    scores = np.empty(retrieved.shape, dtype=np.float32)
    for start in range(0, len(retrieved), USERS_AT_A_TIME):
        part = slice(start, start + USERS_AT_A_TIME)
        columns = candidates.columns(held.user_rows[part], np.maximum(retrieved[part], 0))
        scores[part] = learned.dlrm.predict(columns).reshape(retrieved[part].shape)
    report.add("end_to_end", "two-tower, then DLRM", evaluate_lists(held, reorder(retrieved, scores)))
    report.add("end_to_end", "two-tower alone", evaluate_lists(held, retrieved))
    for model, row in report.sections["retrieval"].items():
        if model != "two-tower":
            report.sections["end_to_end"][f"{model} alone"] = {
                name: value for name, value in row.items() if "@10" in name and "@100" not in name
            }
