"""What every ranking model keeps to; and a second one, in this file alone, in a whole bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from scipy.optimize import minimize

from contract import bundle as files
from contract.bundle import Inputs, RankerSpec, read_manifest
from contract.encoders import OOV_CODE, PAD_CODE, Encoders, Field
from tests.builders import bundles
from training.config import SettingError, TrainingSettings
from training.data.prepared import Prepared
from training.examples.candidates import CandidateRows
from training.examples.ranking import RankingExamples
from training.examples.snapshot import Candidates, items_as_of, users_as_of
from training.export.ranker import export_ranker, ranker_spec, run_ranker
from training.export.tables import without_tables
from training.export.towers import ExportError
from training.metrics.ranking import auc
from training.models import RANKING_MODELS, chosen_ranking
from training.promotion import slate_quality
from training.ranking.config import DcnConfig, DeepConfig, DlrmConfig, MultiTaskConfig
from training.ranking.model import FitRanking, RankingModel
from training.ranking.onnx_graph import GraphBuilder

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
FIELDS = {
    field.name: field
    for field in (
        Field("user_id", "categorical", "user_id", 40),
        Field("user_recent_item_ids", "list", "item_id", 30, 5),
        Field("user_age", "numeric"),
        Field("item_id", "categorical", "item_id", 30),
        Field("item_tags", "list", "item_tags", 9, 3),
        Field("item_price", "numeric"),
        Field("context_tab", "categorical", "context_tab", 6),
    )
}
OF_CANDIDATES = {"item_id", "item_tags", "item_price"}


@dataclass(frozen=True, eq=False)
class LogisticRanker:
    """A logistic regression on the numerics, and on a weight per code of every categorical."""

    name = "logistic"
    fields: Mapping[str, Field]
    weights: Mapping[str, Floats]
    """Of each column (cardinality,), of a numeric (1,)."""
    bias: float

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def predict(self, arrays: Mapping[str, Array]) -> Floats:
        logit: Floats = np.full(len(next(iter(arrays.values()))), self.bias, dtype=np.float32)
        for name, weight in self.weights.items():
            is_numeric = self.fields[name].kind == "numeric"
            logit += (arrays[name] * weight[0] if is_numeric else weight[arrays[name]]).astype(np.float32)
        chances: Floats = (1 / (1 + np.exp(-logit))).astype(np.float32)
        return chances

    def predict_candidates(self, arrays: Mapping[str, Array]) -> Floats:
        return self.predict(arrays)

    def to_onnx(self, spec: RankerSpec) -> onnx.ModelProto:
        graph = GraphBuilder("logistic")
        user = self._side(graph, spec.user, "user", ("users",))
        candidate = self._side(graph, spec.candidate, "candidate", ("users", "candidates"))
        logit = graph.call("Add", candidate, user)  # (B,K) + (B,1)
        logit = graph.call("Add", logit, graph.constant(np.float32(self.bias)))
        return graph.model(graph.call("Sigmoid", logit), spec.output, np.float32, ("users", "candidates"))

    def _side(self, graph: GraphBuilder, inputs: Inputs, side: str, axes: Sequence[str]) -> str:
        """Sums what a side's columns give: (B,1) of users, (B,K) of candidates."""
        sums = []
        if inputs.numeric:
            given = graph.input(f"{side}_numeric", np.float32, (*axes, len(inputs.numeric)))
            weights = graph.constant(np.concatenate([self.weights[name] for name in inputs.numeric]))
            sums.append(graph.call("Mul", given, weights))
        if inputs.categorical:
            given = graph.input(f"{side}_categorical", np.int64, (*axes, len(inputs.categorical)))
            tables = [self.weights[name] for name in inputs.categorical]
            starts = np.cumsum([0, *map(len, tables)])[:-1]
            rows = graph.call("Add", given, graph.constant(starts.astype(np.int64)))
            sums.append(graph.call("Gather", graph.constant(np.concatenate(tables)), rows))
        joined = graph.call("Concat", *sums, axis=-1)
        return graph.call("ReduceSum", joined, graph.axes(-1), keepdims=int(side == "user"))


def fit_logistic(examples: RankingExamples, seed: int) -> LogisticRanker:
    """Fits it on the exposures and on the candidates alike; needs no chance, so no seed."""
    del seed
    columns, labels = dict(examples.train), examples.labels.reshape(len(examples.labels), -1)[:, 0]
    if examples.candidates is not None:
        labels = np.concatenate([labels, examples.candidates.labels])
        columns = {n: np.concatenate([v, examples.candidates.columns[n]]) for n, v in columns.items()}
    known = ~np.isnan(labels)
    labels = labels[known]
    fields = {n: f for n, f in examples.fields.items() if f.kind != "list" and n in columns}
    sizes = [1 if field.kind == "numeric" else field.cardinality for field in fields.values()]
    starts = np.cumsum([0, *sizes])

    def logits(point: Array) -> Array:
        total = np.full(len(labels), point[-1])
        for (name, field), start in zip(fields.items(), starts[:-1], strict=True):
            values = columns[name][known]
            total += values * point[start] if field.kind == "numeric" else point[start + values]
        return total

    def loss(point: Array) -> tuple[float, Array]:
        z = logits(point)
        slope = (1 / (1 + np.exp(-z)) - labels) / len(labels)
        gradient = np.append(0.001 * point[:-1], slope.sum())
        for (name, field), start in zip(fields.items(), starts[:-1], strict=True):
            values = columns[name][known]
            if field.kind == "numeric":
                gradient[start] += values @ slope
            else:
                gradient[start : start + field.cardinality] += np.bincount(values, slope, field.cardinality)
        penalty = 0.0005 * float(point[:-1] @ point[:-1])
        return float(np.mean(np.logaddexp(0, z) - labels * z)) + penalty, gradient

    best = minimize(loss, np.zeros(starts[-1] + 1), jac=True, method="L-BFGS-B").x.astype(np.float32)
    weights = {n: best[a:b] for n, a, b in zip(fields, starts[:-1], starts[1:], strict=True)}
    return LogisticRanker(fields, weights, float(best[-1]))


def make_rows(rows: int, seed: int) -> tuple[dict[str, Array], Floats]:
    """Makes encoded rows whose label depends on price and tab; lists are of any length, none included."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Array] = {}
    for name, field in FIELDS.items():
        if field.kind == "numeric":
            columns[name] = rng.normal(size=rows).astype(np.float32)
        elif field.kind == "categorical":
            columns[name] = rng.integers(1, field.cardinality, rows)
        else:
            is_element = np.arange(field.length) < rng.integers(0, field.length + 1, (rows, 1))
            codes = rng.integers(1, field.cardinality, (rows, field.length))
            columns[name] = np.where(is_element, codes, PAD_CODE)
    chance = 1 / (1 + np.exp(-2 * columns["item_price"] - (columns["context_tab"] - 3)))
    return columns, (rng.random(rows) < chance).astype(np.float32)


def make_examples() -> RankingExamples:
    """Makes rows of every kind: some of them candidates, some with an unknown target."""
    (train, labels), (candidates, clicked) = make_rows(800, 0), make_rows(400, 1)
    labels[:50] = np.nan
    return RankingExamples(
        FIELDS, train, labels, *make_rows(300, 2), CandidateRows(candidates, clicked, sampled=0.5)
    )


@pytest.fixture(scope="class")
def model(request: pytest.FixtureRequest) -> RankingModel:
    fitted: RankingModel = request.cls.fit(make_examples(), 3)
    return fitted


class RankingModelSuite:
    """Inherited by a class per implementation, which says how it is fitted."""

    fit: FitRanking

    def test_it_is_a_ranking_model_of_known_columns(self, model: RankingModel) -> None:
        assert isinstance(model, RankingModel)
        assert model.name
        assert set(model.features) <= set(FIELDS)

    def test_it_learns_what_decides(self, model: RankingModel) -> None:
        columns, labels = make_rows(500, 4)
        for scores in (model.predict(columns), model.predict_candidates(columns)):
            assert scores.dtype == np.float32
            assert scores.shape == (500,)
            assert ((scores > 0) & (scores < 1)).all()
            assert auc(labels, scores) > 0.75

    def test_the_same_seed_gives_the_same_model(self, model: RankingModel) -> None:
        again = type(self).fit(make_examples(), 3)
        columns, _ = make_rows(50, 5)
        np.testing.assert_array_equal(again.predict(columns), model.predict(columns))
        np.testing.assert_array_equal(again.predict_candidates(columns), model.predict_candidates(columns))

    def test_a_score_does_not_depend_on_other_rows(self, model: RankingModel) -> None:
        columns, _ = make_rows(20, 6)
        alone = [
            model.predict_candidates({n: v[i : i + 1] for n, v in columns.items()})[0] for i in range(20)
        ]
        np.testing.assert_allclose(alone, model.predict_candidates(columns), atol=1e-6)

    def test_unknown_ids_and_empty_lists_are_scored(self, model: RankingModel) -> None:
        columns, _ = make_rows(4, 7)
        for name, field in FIELDS.items():
            columns[name][:] = {"categorical": OOV_CODE, "list": PAD_CODE, "numeric": 0}[field.kind]
        assert np.isfinite(model.predict_candidates(columns)).all()

    def test_its_graph_takes_what_the_spec_says_and_gives_its_own_scores(
        self, model: RankingModel, tmp_path: Path
    ) -> None:
        spec = ranker_spec(model.features, FIELDS, OF_CANDIDATES, "ranker.onnx")
        export_ranker(model, spec, make_rows(64, 8)[0], tmp_path)
        graph = onnx.load(tmp_path / spec.file).graph
        assert {
            i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input
        } == promised_inputs(spec)
        (output,) = graph.output
        assert output.name == spec.output
        assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT

    def test_its_tables_of_ids_may_lie_beside_it(self, model: RankingModel, tmp_path: Path) -> None:
        spec = ranker_spec(model.features, FIELDS, OF_CANDIDATES, "ranker.onnx")
        export_ranker(model, spec, make_rows(64, 8)[0], tmp_path)
        path, sides = tmp_path / spec.file, {"user_": spec.user, "candidate_": spec.candidate}
        left, tables = without_tables(path, sides, ["user_id", "item_id"], FIELDS)  # refuses what differs
        assert {name: len(table) for name, table in tables.items()} == {"user_id": 40, "item_id": 30}
        for prefix, name in (("user_", "user_id"), ("candidate_", "item_id")):
            assert name not in left[prefix].categorical
            assert left[prefix].embeddings == {name: tables[name].shape[1]}


def promised_inputs(spec: RankerSpec) -> dict[str, list[int | str]]:
    """Gives name and shape of every input that a ranker of this spec takes."""
    promised: dict[str, list[int | str]] = {}
    for side, inputs, axes in (
        ("user", spec.user, ["users"]),
        ("candidate", spec.candidate, ["users", "candidates"]),
    ):
        promised |= {name: [*axes, length] for name, length in inputs.lists.items()}
        for kind, columns in (("categorical", inputs.categorical), ("numeric", inputs.numeric)):
            if columns:
                promised[f"{side}_{kind}"] = [*axes, len(columns)]
    return promised


class TestDlrm(RankingModelSuite):
    config = DlrmConfig(width=4, bottom=(8,), top=(8,), batch_size=128, epochs=12, learning_rate=0.02)
    fit = staticmethod(RANKING_MODELS["dlrm"](TrainingSettings(dlrm=config)))


SMALL: dict[str, Any] = {
    "width": 4,
    "batch_size": 128,
    "epochs": 8,
    "learning_rate": 0.02,
    "members": 1,
    "dropout": 0.0,
}


class TestDcn(RankingModelSuite):
    fit = staticmethod(RANKING_MODELS["dcn"](TrainingSettings(dcn=DcnConfig(deep=(8,), **SMALL))))


class TestDeepFm(RankingModelSuite):
    fit = staticmethod(RANKING_MODELS["deep_fm"](TrainingSettings(deep_fm=DeepConfig(deep=(8,), **SMALL))))


class TestWideDeep(RankingModelSuite):
    fit = staticmethod(
        RANKING_MODELS["wide_deep"](TrainingSettings(wide_deep=DeepConfig(deep=(8,), **SMALL)))
    )


class TestMmoe(RankingModelSuite):
    config = MultiTaskConfig(expert=(8,), experts=2, tower=(4,), **SMALL)
    fit = staticmethod(RANKING_MODELS["mmoe"](TrainingSettings(mmoe=config)))


class TestPle(RankingModelSuite):
    config = MultiTaskConfig(expert=(8,), experts=1, tower=(4,), **SMALL)
    fit = staticmethod(RANKING_MODELS["ple"](TrainingSettings(ple=config)))


class TestLogistic(RankingModelSuite):
    fit = staticmethod(fit_logistic)

    def test_its_tables_of_ids_may_lie_beside_it(self, model: RankingModel, tmp_path: Path) -> None:
        """Its tables are no rows of floats: they stay inside, and that is said."""
        with pytest.raises(ExportError, match="reads no table of its own by the codes of user_id"):
            super().test_its_tables_of_ids_may_lie_beside_it(model, tmp_path)


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match="SHORTLIST_RANKER=trees: there is no such model; choose dlrm"):
        chosen_ranking(TrainingSettings(ranker="trees"))


@pytest.fixture(scope="module")
def logistic_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path, LogisticRanker]:
    """A whole bundle; all that the second model needed beside this file is a line of the registry."""
    made: list[LogisticRanker] = []

    def fit(examples: RankingExamples, seed: int) -> LogisticRanker:
        made.append(fit_logistic(examples, seed))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RANKING_MODELS, "logistic", lambda _: fit)
        prepared, folder = bundles.small_bundle(tmp_path_factory.mktemp("logistic"), ranker="logistic")
    return prepared, folder, made[0]


def test_a_bundle_of_the_second_model_is_measured_and_scores_as_the_manifest_says(
    logistic_bundle: tuple[Prepared, Path, LogisticRanker],
) -> None:
    prepared, folder, model = logistic_bundle
    manifest = read_manifest(folder)
    metrics = json.loads((folder / files.METRICS_FILE).read_text())
    assert metrics["served"] == "slates as served"
    assert slate_quality(metrics) is not None
    assert "logistic" in metrics["sections"]["ranking"]
    assert set(manifest.ranker.columns) == set(model.features)

    encoders = Encoders.load(folder / files.ENCODERS_FILE)
    at, rng = prepared.dataset.clock(), np.random.default_rng(0)
    candidates = Candidates(prepared.dataset, encoders, users_as_of(prepared, at), items_as_of(prepared, at))
    users, k = rng.integers(0, len(prepared.users), 30), 20
    columns = candidates.columns(users, rng.integers(0, len(prepared.items), (len(users), k)))
    wide = {name: values.reshape(len(users), k, *values.shape[1:]) for name, values in columns.items()}
    user = {name: wide[name][:, 0] for name in manifest.ranker.user.columns}
    scores = run_ranker(folder / manifest.ranker.file, manifest.ranker, user, wide)
    assert scores.shape == (len(users), k)
    assert scores.std() > 0.001
    np.testing.assert_allclose(scores.ravel(), model.predict_candidates(columns), rtol=0, atol=1e-5)
