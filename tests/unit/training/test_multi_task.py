"""Several labels in one ranker: what is served is their weighted sum, and stays in [0,1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.arrays import Array, Floats
from tests.contract.training.test_ranking_models import FIELDS, OF_CANDIDATES, SMALL, make_examples, make_rows
from training.config import SettingError, TrainingSettings
from training.examples.ranking import RankingExamples
from training.export.ranker import export_ranker, ranker_spec
from training.metrics.ranking import auc
from training.models import RANKING_MODELS, check_task_weights
from training.ranking.config import DeepConfig, MultiTaskConfig
from training.ranking.multi_task import Mmoe, fit_mmoe
from training.ranking.neumf import fit_neumf

CONFIG = MultiTaskConfig(expert=(8,), experts=2, tower=(4,), auxiliary_weight=1.0, **SMALL)
LABELS = ("is_click", "is_like", "is_hate")


def is_tagged(columns: Mapping[str, Array]) -> Floats:
    """Says where the second label is 1: by what the item has, whatever the first label is."""
    tagged: Floats = (columns["item_tags"][:, 0] > 4).astype(np.float32)
    return tagged


def several_labels() -> RankingExamples:
    examples = make_examples()
    liked = is_tagged(examples.train)
    labels = np.stack([examples.labels, liked, 1 - liked], axis=1)
    return replace(examples, labels=labels, label_names=LABELS, weights=(1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def fitted() -> Mmoe:
    return fit_mmoe(several_labels(), 0, CONFIG)


def test_without_weights_the_target_alone_is_served(fitted: Mmoe) -> None:
    columns, _ = make_rows(200, 20)
    alone = replace(fitted, weights=(1.0, 0.0, 0.0))
    np.testing.assert_array_equal(fitted.predict_candidates(columns), alone.predict_candidates(columns))


def test_every_label_is_learned_beside_the_target(fitted: Mmoe) -> None:
    columns, clicked = make_rows(500, 21)
    assert auc(clicked, fitted.predict(columns)) > 0.75
    second = replace(fitted, weights=(0.0, 1.0, 0.0), is_trained_on_candidates=False)
    assert auc(is_tagged(columns), second.predict_candidates(columns)) > 0.9


def test_the_score_is_the_weighted_sum_of_probabilities_moved_into_0_to_1(fitted: Mmoe) -> None:
    columns, _ = make_rows(300, 22)

    def scores(*weights: float) -> Floats:
        return replace(fitted, weights=weights).predict_candidates(columns)

    first, second, third = scores(1, 0, 0), scores(0, 1, 0), scores(0, 0, 1)
    np.testing.assert_allclose(scores(3, 1, 0), (3 * first + second) / 4, atol=1e-6)
    against = scores(2, 1, -5)
    np.testing.assert_allclose(against, (2 * first + second - 5 * third + 5) / 8, atol=1e-6)
    assert ((against >= 0) & (against <= 1)).all()


def test_weights_are_told_by_the_labels_names() -> None:
    model = fit_mmoe(
        several_labels(), 0, CONFIG.model_copy(update={"epochs": 1}), {"is_hate": -2, "is_click": 1}
    )
    assert model.weights == (1.0, 0.0, -2.0)


def test_what_is_served_of_several_labels_survives_its_export(fitted: Mmoe, tmp_path: Path) -> None:
    model = replace(fitted, weights=(1.0, 2.0, -1.0))
    spec = ranker_spec(model.features, FIELDS, OF_CANDIDATES, "ranker.onnx")
    export_ranker(model, spec, make_rows(64, 23)[0], tmp_path)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"is_like": 1, "is_liked": 1}, "there is no label is_liked; choose is_click or is_like"),
        ({"is_like": 0}, "all are 0"),
    ],
)
def test_weights_that_order_nothing_are_refused_in_words(weights: dict[str, float], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        check_task_weights(TrainingSettings(task_weights=weights), ("is_click", "is_like"), ["mmoe"])


@pytest.mark.parametrize("ranker", sorted(RANKING_MODELS))
def test_weights_are_refused_by_a_ranker_that_scores_by_the_target_alone(ranker: str) -> None:
    settings, labels = TrainingSettings(task_weights={"is_like": 2}), ("is_click", "is_like")
    if ranker in ("mmoe", "ple"):
        check_task_weights(settings, labels, ["dlrm", ranker])
        return
    said = rf"SHORTLIST_TASK_WEIGHTS: no weight counts in {ranker}; choose mmoe or ple .*, or unset it"
    with pytest.raises(SettingError, match=said):
        check_task_weights(settings, labels, [ranker])
    check_task_weights(TrainingSettings(), labels, [ranker])
    check_task_weights(settings, labels, [])


def test_a_ranker_of_ids_alone_reads_no_more_and_survives_its_export(tmp_path: Path) -> None:
    model = fit_neumf(make_examples(), 0, DeepConfig(deep=(8,), **SMALL))
    assert set(model.features) == {"user_id", "item_id"}
    spec = ranker_spec(model.features, FIELDS, OF_CANDIDATES, "ranker.onnx")
    export_ranker(model, spec, make_rows(64, 24)[0], tmp_path)
