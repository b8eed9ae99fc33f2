"""The Triton model around the chain, with a stand-in for Triton's own module."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from contract.errors import StageError
from contract.tensors import ANSWER, ANSWER_TENSORS, EXPLAIN_TENSORS, pack_request, unpack
from ensemble.graph import Stores
from ensemble.publish.export import export
from ensemble.run import recommender as recommender_module
from ensemble.run.recommender import item_table
from ensemble.triton.model import TritonPythonModel
from tests.builders.triton import World, make_request, make_settings, memory_index, slate


class FakeTensor:
    """One named array."""

    def __init__(self, name: str, array: Any) -> None:
        self._name, self.array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self.array


class FakeError:
    """A text and a code, as Triton carries them to the client."""

    INVALID_ARG, INTERNAL, UNAVAILABLE = "invalid_arg", "internal", "unavailable"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


class FakeRequest:
    """A request's inputs, and the outputs that it asks for."""

    def __init__(self, tensors: dict[str, Any], outputs: tuple[str, ...] = (ANSWER.name,)) -> None:
        self.tensors, self.outputs = pack_request(tensors, ("context_surface",)), outputs

    def inputs(self) -> list[FakeTensor]:
        return [FakeTensor(name, array) for name, array in self.tensors.items()]

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


class FakeResponse:
    """What goes back."""

    def __init__(self, output_tensors: Any = (), error: FakeError | None = None) -> None:
        self.outputs = {t.name(): t.array for t in output_tensors}
        self.error = error


def named(response: FakeResponse) -> dict[str, Any]:
    """Gives the answer's tensors by name."""
    assert response.error is None
    return unpack(response.outputs[ANSWER.name], ANSWER_TENSORS)


class FakeFamily:
    """A metric family, whose metrics keep their values by label."""

    COUNTER, GAUGE = "counter", "gauge"
    values: ClassVar[dict[tuple[str, tuple[str, ...]], float]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        self.name, self.kind = name, kind

    def Metric(self, labels: dict[str, str]) -> FakeMetric:
        return FakeMetric(self, (self.name, tuple(labels.values())))


class FakeMetric:
    """One metric."""

    def __init__(self, family: FakeFamily, key: tuple[str, tuple[str, ...]]) -> None:
        self.family, self.key = family, key
        family.values.setdefault(key, 0.0)

    def increment(self, amount: float) -> None:
        assert self.family.kind == FakeFamily.COUNTER
        assert amount >= 0
        self.family.values[self.key] += amount

    def set(self, value: float) -> None:
        assert self.family.kind == FakeFamily.GAUGE
        self.family.values[self.key] = value


@pytest.fixture
def model(world: World, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives an initialised model of an exported bundle, on memory stores."""
    fake = SimpleNamespace(
        Tensor=FakeTensor,
        TritonError=FakeError,
        InferenceResponse=FakeResponse,
        MetricFamily=FakeFamily,
    )
    monkeypatch.setattr(FakeFamily, "values", {})
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)

    def memory_stores(bundle: Any, settings: Any) -> Stores:
        features = world.memory_store()
        return Stores(features, memory_index(world, bundle), item_table(bundle, features, settings))

    monkeypatch.setattr(recommender_module, "redis_stores", memory_stores)
    target = export(world.folder, tmp_path / "models", make_settings())
    config = {"output": [{"name": t.name} for t in (ANSWER, *EXPLAIN_TENSORS)]}
    model = TritonPythonModel()
    model.initialize(
        {
            "model_repository": str(target),
            "model_version": "1",
            "model_config": json.dumps(config),
            "model_instance_name": "recommend_0_0",
        }
    )
    yield model
    model.finalize()


def test_every_request_gets_its_own_response_in_order(model: Any) -> None:
    users = (101, 105, 9_999)
    together = model.execute([FakeRequest(make_request(u)) for u in users])
    alone = [model.execute([FakeRequest(make_request(u))])[0] for u in users]
    assert [slate(named(r)) for r in together] == [slate(named(r)) for r in alone]


def test_only_what_was_asked_for_comes_back(model: Any) -> None:
    (plain,) = model.execute([FakeRequest(make_request(101))])
    assert set(plain.outputs) == {ANSWER.name}
    everything = tuple(t.name for t in (ANSWER, *EXPLAIN_TENSORS))
    (explained,) = model.execute([FakeRequest(make_request(101), everything)])
    assert set(explained.outputs) == set(everything)
    assert named(explained)["stage_us"].shape == (1, 7)


def test_a_wrong_request_gets_its_error_and_its_neighbours_their_slates(model: Any) -> None:
    good, wrong, late = model.execute(
        [
            FakeRequest(make_request(101)),
            FakeRequest(make_request(101, n=0)),
            FakeRequest(make_request(101, deadline_us=1)),
        ]
    )
    assert good.error is None
    assert wrong.error.code == FakeError.INVALID_ARG
    assert late.error.code == FakeError.UNAVAILABLE
    assert StageError.parse(wrong.error.message) is not None


def test_a_request_of_several_users_gets_a_row_for_each(model: Any) -> None:
    rows = [make_request(u) for u in (101, 102, 103)]
    tensors = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    response, single = model.execute([FakeRequest(tensors), FakeRequest(make_request(104))])
    assert named(response)["item_ids"].shape[0] == 3
    assert named(single)["item_ids"].shape[0] == 1


def test_it_is_warm_before_it_is_ready_and_says_so(model: Any) -> None:
    assert model.recommender.is_warm
    assert FakeFamily.values["shortlist_chain_warm", ("recommend_0_0",)] == 1
    assert FakeFamily.values["shortlist_chain_indexed_share", ("recommend_0_0",)] == 1
    assert FakeFamily.values["shortlist_chain_requests_total", ()] == 0, "sample requests count for nobody"


def test_the_least_hit_rate_of_its_tables_is_published_where_it_has_any(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gauge = "shortlist_chain_embedding_hit_rate", ("recommend_0_0",)
    assert gauge not in FakeFamily.values
    users, items = SimpleNamespace(hit_rate=0.75), SimpleNamespace(hit_rate=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.recommender), "tables", (users, items))
        model._publish()
        assert FakeFamily.values[gauge] == 0.75
        users.hit_rate = 0.5
        model._publish()
        assert FakeFamily.values[gauge] == 0.5


def test_what_ran_is_counted(model: Any) -> None:
    users = [FakeRequest(make_request(u)) for u in (101, 9_999)]
    wrong, late = FakeRequest(make_request(101, n=0)), FakeRequest(make_request(101, deadline_us=1))
    model.execute([*users, wrong, late])
    model.execute([users[0]])
    model._publish()
    counted = {(name, *labels): value for (name, labels), value in FakeFamily.values.items()}
    assert counted["shortlist_chain_requests_total",] == 5
    assert counted["shortlist_chain_executions_total",] == 2
    assert counted["shortlist_chain_degraded_rows_total", "unknown_user"] == 1
    assert counted["shortlist_chain_failed_requests_total", "bad_request"] == 1
    assert counted["shortlist_chain_failed_requests_total", "dependency"] == 1
    assert counted["shortlist_chain_late_rows_total", "lookup_user_features"] == 1
    assert counted["shortlist_chain_seconds_total", "onnxruntime"] > 0
    assert counted["shortlist_chain_seconds_total", "python"] > 0
    assert counted["shortlist_chain_stage_seconds_total", "score_candidates"] > 0
    model._publish()
    assert counted == {(name, *labels): value for (name, labels), value in FakeFamily.values.items()}
