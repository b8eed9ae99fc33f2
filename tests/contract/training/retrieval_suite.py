"""What every retrieval model must do; an implementation inherits `RetrievalModelSuite` and says how it is
fitted, on the small world of tastes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from contract.bundle import ModelSpec
from contract.encoders import OOV_CODE, PAD_CODE
from tests.builders.towers_task import FIELDS, towers_task
from training.export.towers import export_model, model_spec
from training.retrieval.model import FitRetrieval, RetrievalModel
from training.retrieval.task import FittingTask

SEED = 3


def fitted(fit: FitRetrieval, task: FittingTask) -> RetrievalModel:
    """Fits one on all that there is to learn from."""
    return fit(task.fields, task.examples, task.catalogue, seed=SEED, validate=task.validation)


class RetrievalModelSuite:
    """Inherited by a class per implementation. Users are asked as validation asks them."""

    fit: FitRetrieval

    @pytest.fixture(scope="class")
    def task(self) -> FittingTask:
        return towers_task()

    @pytest.fixture(scope="class")
    def model(self, task: FittingTask) -> RetrievalModel:
        return fitted(type(self).fit, task)

    def test_it_is_a_retrieval_model_of_known_columns(self, model: RetrievalModel, task: FittingTask) -> None:
        assert isinstance(model, RetrievalModel)
        assert model.name
        assert set(model.user_features) <= set(task.user_columns)
        assert set(model.item_features) <= set(task.catalogue)

    def test_users_and_items_have_vectors_of_one_width_and_bounded_products(
        self, model: RetrievalModel, task: FittingTask
    ) -> None:
        assert task.validation
        users, items = model.encode_users(task.validation.users), model.encode_items(task.catalogue)
        assert users.dtype == items.dtype == np.float32
        assert users.shape == (task.examples.user_count, items.shape[1])
        assert len(items) == task.examples.item_count
        low, high = model.score_range
        products = users @ items.T
        assert low <= products.min() < products.max() <= high

    def test_it_learns_what_its_users_like(self, model: RetrievalModel, task: FittingTask) -> None:
        assert task.validation
        chosen = task.examples.matrix().toarray() > 0
        products = model.encode_users(task.validation.users) @ model.encode_items(task.catalogue).T
        assert (products[chosen].mean() - products[~chosen].mean()) / products.std() > 0.3

    def test_the_same_seed_gives_the_same_model(self, model: RetrievalModel, task: FittingTask) -> None:
        again = fitted(type(self).fit, task)
        assert task.validation
        users, items = task.validation.users, task.catalogue
        np.testing.assert_array_equal(again.encode_users(users), model.encode_users(users))
        np.testing.assert_array_equal(again.encode_items(items), model.encode_items(items))

    def test_a_vector_does_not_depend_on_other_rows(self, model: RetrievalModel, task: FittingTask) -> None:
        assert task.validation
        for encode, columns in (
            (model.encode_users, task.validation.users),
            (model.encode_items, task.catalogue),
        ):
            alone = [encode({name: v[at : at + 1] for name, v in columns.items()})[0] for at in range(5)]
            np.testing.assert_allclose(alone, encode(columns)[:5], atol=1e-6)

    def test_unknown_users_and_new_items_have_vectors(self, model: RetrievalModel, task: FittingTask) -> None:
        assert task.validation
        unknown = {"categorical": OOV_CODE, "list": PAD_CODE, "numeric": 0, "embedding": 0}
        for encode, columns in (
            (model.encode_users, task.validation.users),
            (model.encode_items, task.catalogue),
        ):
            nothing = {n: np.full_like(v[:2], unknown[FIELDS[n].kind]) for n, v in columns.items()}
            assert np.isfinite(encode(nothing)).all()

    def test_its_graphs_take_what_the_specs_say_and_give_its_own_vectors(
        self, model: RetrievalModel, task: FittingTask, tmp_path: Path
    ) -> None:
        assert task.validation
        user = model_spec(model.user_features, task.fields, "user_tower.onnx", "a_name")
        item = model_spec(model.item_features, task.fields, "item_tower.onnx", "another")
        # Each is compared with its model, and refused where it differs.
        export_model(model.users_to_onnx(user), model.encode_users, user, task.validation.users, tmp_path)
        export_model(model.items_to_onnx(item), model.encode_items, item, task.catalogue, tmp_path)
        for spec in (user, item):
            graph = onnx.load(tmp_path / spec.file).graph
            inputs = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim][1:] for i in graph.input}
            assert inputs == promised(spec)
            (output,) = graph.output
            assert output.name == spec.output
            assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def promised(spec: ModelSpec) -> dict[str, list[int]]:
    """Gives name and width of every input that a model of this spec takes."""
    packed = {"categorical": spec.categorical, "numeric": spec.numeric}
    widths = {name: [len(columns)] for name, columns in packed.items() if columns}
    return widths | {name: [length] for name, length in (spec.lists | spec.embeddings).items()}
