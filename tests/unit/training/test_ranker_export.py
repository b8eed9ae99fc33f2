"""The exported ranker, users apart from candidates, equals TensorFlow, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from contract.arrays import Array
from contract.bundle import RankerSpec
from contract.encoders import PAD_CODE, Field
from training.export.ranker import export_ranker, ranker_spec, run_ranker
from training.export.towers import ExportError
from training.ranking.columns import to_tensors
from training.ranking.config import DlrmConfig
from training.ranking.dlrm import Dlrm, build_network
from training.ranking.graph import FEW
from training.ranking.neural import CANDIDATE, TARGET

FIELDS = {
    field.name: field
    for field in (
        Field("user_id", "categorical", "user_id", 40),
        Field("user_recent_item_ids", "list", "item_id", 30, FEW + 3),
        Field("user_age", "numeric"),
        Field("item_id", "categorical", "item_id", 30),
        Field("item_tags", "list", "item_tags", 9, 3),
        Field("item_price", "numeric"),
        Field("user_item_recent", "numeric"),
        Field("context_tab", "categorical", "context_tab", 6),
    )
}
OF_CANDIDATES = {"item_id", "item_tags", "item_price", "user_item_recent"}
CONFIG = DlrmConfig(width=4, bottom=(8,), top=(8, 6), members=2)
NUMERICS = ("user_age", "item_price", "user_item_recent")
SPEC = ranker_spec(list(FIELDS), FIELDS, OF_CANDIDATES, "ranker.onnx")


def make_dlrm(features: Sequence[str], members: int = 2, is_trained_on_candidates: bool = True) -> Dlrm:
    """Makes a ranker of random weights, large enough that every column matters."""
    rng = np.random.default_rng(members)
    networks = []
    for _ in range(members):
        network = build_network(FIELDS, features, [TARGET, CANDIDATE], CONFIG)
        network.model(to_tensors(features, make_rows(2), slice(0, 2)))
        network.model.set_weights([rng.normal(0, 0.5, w.shape) for w in network.model.get_weights()])
        networks.append(network)
    return Dlrm(tuple(features), tuple(networks), is_trained_on_candidates, -0.7, ())


def make_rows(rows: int, seed: int = 0) -> dict[str, Array]:
    """Draws encoded rows; lists are of any length, none included."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Array] = {}
    for name, field in FIELDS.items():
        if field.kind == "numeric":
            columns[name] = rng.normal(size=rows).astype(np.float32)
            continue
        shape = (rows, field.length) if field.kind == "list" else (rows,)
        columns[name] = rng.integers(1, field.cardinality, shape)
        if field.kind == "list":
            ends = rng.integers(0, field.length + 1, (rows, 1))
            columns[name] = np.where(np.arange(field.length) < ends, columns[name], PAD_CODE)
    return columns


@pytest.mark.parametrize(
    "left_out",
    [
        (),
        ("user_recent_item_ids", "item_tags"),
        NUMERICS,
        ("item_price", "user_item_recent"),
        ("user_age",),
        ("context_tab",),
        ("user_id", "context_tab", "item_id"),
    ],
    ids=lambda names: "without " + ", ".join(names) if names else "all",
)
def test_an_export_equals_tensorflow_whatever_columns_there_are(
    left_out: tuple[str, ...], tmp_path: Path
) -> None:
    features = [name for name in FIELDS if name not in left_out]
    spec = ranker_spec(features, FIELDS, OF_CANDIDATES, "ranker.onnx")
    assert set(spec.candidate.columns) == OF_CANDIDATES & set(features)
    export_ranker(make_dlrm(features), spec, make_rows(64), tmp_path)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("is_trained_on_candidates", [True, False])
def test_any_number_of_members_is_averaged_behind_the_head_that_is_served(
    members: int, is_trained_on_candidates: bool, tmp_path: Path
) -> None:
    export_ranker(make_dlrm(list(FIELDS), members, is_trained_on_candidates), SPEC, make_rows(64), tmp_path)


def test_candidates_are_scored_as_rows_of_their_user(tmp_path: Path) -> None:
    dlrm, rows = make_dlrm(list(FIELDS)), make_rows(12)
    export_ranker(dlrm, SPEC, rows, tmp_path)
    user = {name: rows[name][:3] for name in SPEC.user.columns}
    candidate = {name: rows[name].reshape(3, 4, *rows[name].shape[1:]) for name in SPEC.candidate.columns}
    flat = {name: np.repeat(column, 4, axis=0) for name, column in user.items()}
    flat |= {name: rows[name] for name in SPEC.candidate.columns}
    scores = run_ranker(tmp_path / "ranker.onnx", SPEC, user, candidate)
    assert scores.std() > 0.05
    np.testing.assert_allclose(scores.ravel(), dlrm.predict_candidates(flat), rtol=0, atol=1e-6)


def test_inputs_are_packed_apart_and_named(tmp_path: Path) -> None:
    export_ranker(make_dlrm(list(FIELDS)), SPEC, make_rows(16), tmp_path)
    graph = onnx.load(tmp_path / "ranker.onnx").graph
    assert {
        i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input
    } == {
        "user_categorical": ["users", 2],
        "user_numeric": ["users", 1],
        "user_recent_item_ids": ["users", FEW + 3],
        "candidate_categorical": ["users", "candidates", 1],
        "candidate_numeric": ["users", "candidates", 2],
        "item_tags": ["users", "candidates", 3],
    }
    assert [output.name for output in graph.output] == ["ranking_scores"]


def test_an_export_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dlrm = make_dlrm(list(FIELDS))
    weights, offset = dlrm.candidate_weights()
    monkeypatch.setattr(Dlrm, "candidate_weights", lambda _: (weights, offset + 0.1))
    with pytest.raises(ExportError, match=r"ranker\.onnx: ONNX differs from the model by"):
        export_ranker(dlrm, SPEC, make_rows(64), tmp_path)


@pytest.mark.parametrize("side", ["user", "item"])
def test_a_side_without_categoricals_and_lists_is_refused_in_words(side: str, tmp_path: Path) -> None:
    names = [name for name in FIELDS if name.startswith(side)]
    spec = RankerSpec.model_validate(ranker_spec(names, FIELDS, OF_CANDIDATES, "ranker.onnx").model_dump())
    with pytest.raises(ValueError, match="needs a categorical or a list of the"):
        export_ranker(make_dlrm(names), spec, make_rows(16), tmp_path)
