"""The Triton model around the chain, with a stand-in for Triton's own module."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ensemble import recommender as recommender_module
from ensemble.contract import OUTPUT_TENSORS, SLATE_TENSORS, StageError
from ensemble.export import export
from ensemble.graph import Stores
from ensemble.model import TritonPythonModel
from ensemble.recommender import item_table
from tests.builders.triton import World, make_request, make_settings, memory_index, slate


class FakeTensor:
    """One named array."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        return self.array


class FakeError:
    """A text and a code, as Triton carries them to the client."""

    INVALID_ARG, INTERNAL, UNAVAILABLE = "invalid_arg", "internal", "unavailable"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


class FakeRequest:
    """A request's inputs, and the outputs that it asks for."""

    def __init__(self, tensors: dict[str, Any], outputs: tuple[str, ...] = SLATE_TENSORS) -> None:
        self.tensors, self.outputs = tensors, outputs

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)


class FakeResponse:
    """What goes back."""

    def __init__(self, output_tensors: Any = (), error: FakeError | None = None) -> None:
        self.outputs = {t.name: t.array for t in output_tensors}
        self.error = error


@pytest.fixture
def model(world: World, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives an initialised model of an exported bundle, on memory stores."""
    fake = SimpleNamespace(
        Tensor=FakeTensor,
        TritonError=FakeError,
        InferenceResponse=FakeResponse,
        get_input_tensor_by_name=lambda request, name: FakeTensor(name, request.tensors[name]),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)

    def memory_stores(bundle: Any, settings: Any) -> Stores:
        features = world.memory_store()
        return Stores(features, memory_index(world, bundle), item_table(bundle, features, settings))

    monkeypatch.setattr(recommender_module, "redis_stores", memory_stores)
    target = export(world.folder, tmp_path / "models", make_settings())
    config = {"output": [{"name": t.name} for t in OUTPUT_TENSORS]}
    model = TritonPythonModel()
    model.initialize(
        {"model_repository": str(target), "model_version": "1", "model_config": json.dumps(config)}
    )
    yield model
    model.finalize()


def test_every_request_gets_its_own_response_in_order(model: Any) -> None:
    users = (101, 105, 9_999)
    together = model.execute([FakeRequest(make_request(u)) for u in users])
    alone = [model.execute([FakeRequest(make_request(u))])[0] for u in users]
    assert [slate(r.outputs) for r in together] == [slate(r.outputs) for r in alone]


def test_only_what_was_asked_for_comes_back(model: Any) -> None:
    (plain,) = model.execute([FakeRequest(make_request(101))])
    assert set(plain.outputs) == set(SLATE_TENSORS)
    everything = tuple(t.name for t in OUTPUT_TENSORS)
    (explained,) = model.execute([FakeRequest(make_request(101), everything)])
    assert set(explained.outputs) == set(everything)
    assert explained.outputs["stage_us"].shape == (1, 7)


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
    assert response.outputs["item_ids"].shape[0] == 3
    assert single.outputs["item_ids"].shape[0] == 1
