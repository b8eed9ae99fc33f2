"""Worlds as people have them, trained for real: odd names, embeddings, no label, three users, five items."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import pytest
from feast.protos.feast.types.Value_pb2 import Value
from redis import Redis
from rich.console import Console

from contract import bundle as files
from contract import names
from contract.bundle import Manifest, read_manifest
from contract.encoders import Encoders
from contract.feast import feature_field, feature_key
from contract.features import SEEN_FILE
from tests.builders.datasets import quiet, write_own
from tests.builders.features import load
from tests.builders.odd_world import (
    DECLARATION,
    ITEMS,
    NEW,
    ODD,
    USERS,
    odd_tables,
    odd_world,
    quick_settings,
)
from tests.builders.redis_server import redis_server
from training.config import SettingError
from training.data.prepared import Prepared
from training.data.sources import catalog
from training.evaluation.tables import markdown
from training.examples.positives import UserHistories, item_columns, retrieval_examples
from training.examples.snapshot import Candidates, items_as_of, users_as_of
from training.export.ranker import run_ranker
from training.export.towers import run_model
from training.features.tables import write_features
from training.pipeline import train_bundle
from training.progress import TrainingProgress
from training.record import FOLDER as TRAININGS
from training.retrieval.config import TwoTowerConfig
from training.retrieval.sampling import drawing_chances


@dataclass(frozen=True)
class Trained:
    prepared: Prepared
    folder: Path

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.folder)

    @property
    def encoders(self) -> Encoders:
        return Encoders.load(self.folder / files.ENCODERS_FILE)

    def scores(self) -> np.ndarray:
        """Retrieval's scores of every user with every item, as of the data set's end, (U,I)."""
        histories = UserHistories.of(self.prepared, self.encoders)
        users = np.arange(len(histories.user_ids))
        at = self.prepared.interactions[self.prepared.dataset.timestamp].max()
        columns = histories.as_of(users, at.to_pydatetime())
        vectors = run_model(self.folder / files.USER_TOWER_FILE, self.manifest.user_tower, columns)
        scores: np.ndarray = vectors @ np.load(self.folder / files.ITEM_VECTORS_FILE).T
        return scores


def trained(prepared: Prepared) -> Trained:
    settings = quick_settings(prepared.folder.parents[1])
    return Trained(prepared, train_bundle(prepared, settings, TrainingProgress(Console(quiet=True))))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(odd_world(tmp_path_factory.mktemp("odd")))


def test_outside_of_the_models_columns_keep_their_own_names(odd: Trained) -> None:
    manifest = odd.manifest
    assert set(ODD) <= set(manifest.ranker.columns)
    assert set(ODD) <= set(manifest.item_tower.columns)
    assert {"item_page count", "item_año-ß", "item_a/b", "item_select"} == set(manifest.filters)
    assert manifest.context == ("context_group by",)
    session = ort.InferenceSession(str(odd.folder / files.ITEM_TOWER_FILE))
    given = {one.name: one.shape[1] for one in session.get_inputs()}
    assert given["item_a/b"] == given["item_x__values"] == 8
    assert given["item_v ec"] == 8
    popular = json.loads((odd.folder / files.POPULAR_FILE).read_text())
    assert set(manifest.filters) <= set(popular["items"][0])


@pytest.mark.parametrize("setting", ["ranker", "retrieval"])
def test_a_model_that_is_not_there_is_told_before_anything_is_recorded(tmp_path: Path, setting: str) -> None:
    prepared = odd_world(tmp_path)
    settings = quick_settings(prepared.folder.parents[1]).model_copy(update={setting: "trees"})
    with pytest.raises(SettingError, match=f"SHORTLIST_{setting.upper()}=trees: there is no such model"):
        train_bundle(prepared, settings, TrainingProgress(Console(quiet=True)))
    assert not (settings.var_dir / TRAININGS).exists()


def test_a_new_item_is_found_by_its_embedding(odd: Trained) -> None:
    """Nobody has chosen it; the readers of its kind are told from the others all the same."""
    users, items = np.arange(USERS), np.arange(ITEMS - NEW, ITEMS)
    scores = odd.scores()[:, -NEW:]
    is_own = users[:, None] % 2 == items % 2
    own, others = (np.where(kind, scores, 0).sum(axis=0) / kind.sum(axis=0) for kind in (is_own, ~is_own))
    assert (own > others).all(), (own, others)
    without = item_columns(odd.prepared, odd.encoders)
    without["item_v ec"] = np.zeros_like(without["item_v ec"])
    flat = run_model(odd.folder / files.ITEM_TOWER_FILE, odd.manifest.item_tower, without)[-NEW:]
    vectors = np.load(odd.folder / files.ITEM_VECTORS_FILE)[-NEW:]
    assert np.ptp(flat[:, :-1], axis=0).max() < 1e-5, "without it they are all alike"
    assert np.ptp(vectors[:, :-1], axis=0).max() > 0.1


def test_an_embedding_is_centred_and_null_is_the_mean(odd: Trained) -> None:
    given = np.stack(odd.prepared.items["item_v ec"])
    coded = odd.encoders.encode("item_v ec", given)
    np.testing.assert_allclose(coded.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(coded, axis=1).mean() == pytest.approx(1, abs=1e-6)
    assert odd.encoders.fields["user_v/ec"].length == 2
    nothing = odd.encoders.encode("user_v/ec", np.full((1, 2), np.nan, np.float32))
    assert nothing.tolist() == [[0.0, 0.0]]
    assert "user_v/ec" not in odd.manifest.ranker.columns


def test_a_category_that_was_null_in_training_is_unknown_and_not_null(odd: Trained) -> None:
    codes = odd.encoders.encode("item_select", np.array([7, names.NULL_INT]))
    assert codes[0] != codes[1]
    assert np.isfinite(odd.scores()).all()


def test_every_column_arrives_in_redis_under_its_own_name(odd: Trained, tmp_path: Path) -> None:
    with redis_server(tmp_path) as url:
        load(odd.prepared, url)
        redis = Redis(**url.connection_kwargs())
        for view, table, key in (
            (names.USER_PROFILE, odd.prepared.users, names.USER_ID),
            (names.ITEM_CATALOG, odd.prepared.items, names.ITEM_ID),
        ):
            for row in table.to_dict("records"):
                stored: Any = redis.hgetall(feature_key(key, row[key], "odd"))
                for name in odd.prepared.dataset.view_columns(view):
                    value = Value.FromString(stored[feature_field(view, name)])
                    kind = value.WhichOneof("val")
                    found = getattr(value, kind) if kind else None
                    given = row.get(name, True)  # all are available
                    if isinstance(given, np.ndarray):
                        assert list(found.val if found is not None else []) == given.tolist(), name
                    else:
                        assert found is None if pd.isna(given) else found == given, name


def test_several_labels_are_learned_though_one_is_unknown_in_the_train_part(odd: Trained) -> None:
    assert odd.prepared.dataset.labels == ("is taken, or not", "is_late")
    metrics = json.loads((odd.folder / files.METRICS_FILE).read_text())
    assert 0 < metrics["sections"]["ranking"]["DLRM"]["log_loss"] < 1
    histories = UserHistories.of(odd.prepared, odd.encoders)
    examples = retrieval_examples(odd.prepared, histories, odd.prepared.split.train_until)
    assert (examples.weights[examples.is_target] == 3).all()
    assert (examples.weights[~examples.is_target] == 1).all()
    chances = drawing_chances(examples, TwoTowerConfig())
    plain = drawing_chances(replace(examples, weights=np.ones(len(examples))), TwoTowerConfig())
    ratio = chances / plain
    assert ratio[examples.is_target].mean() == pytest.approx(3 * ratio[~examples.is_target].mean())


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same readers, of whom is known what they chose and no more: no label, no time, no features."""
    folder = tmp_path_factory.mktemp("chosen")
    log = odd_tables()["interactions"][["user_id", "item_id"]]
    ids = {"user_id": {"role": "id"}, "item_id": {"role": "id"}}
    declaration = {
        "name": "chosen",
        "users": {"user_id": ids["user_id"]},
        "items": {"item_id": ids["item_id"]},
        "interactions": ids,
        "seen_labels": "none",
    }
    written = write_own(folder / "chosen", {"interactions": log}, declaration)
    return trained(catalog.prepare(str(written), folder, folder / "var", say=quiet))


def test_without_a_label_the_ranker_learns_from_what_was_retrieved(chosen: Trained) -> None:
    spec, encoders, prepared = chosen.manifest.ranker, chosen.encoders, chosen.prepared
    at = prepared.split.validate_until
    made = Candidates(prepared.dataset, encoders, users_as_of(prepared, at), items_as_of(prepared, at))
    users, items = np.arange(USERS), prepared.items["item_id"].to_numpy()
    columns = made.columns(users, np.tile(np.arange(len(items)), (USERS, 1)))
    pairs = {name: array.reshape(USERS, len(items), *array.shape[1:]) for name, array in columns.items()}
    of_users = {name: pairs[name][:, 0] for name in spec.user.columns}
    of_items = {name: pairs[name] for name in spec.candidate.columns}
    scores = run_ranker(chosen.folder / files.RANKER_FILE, spec, of_users, of_items)
    is_own = users[:, None] % 2 == items % 2
    assert scores[is_own].mean() > 2 * scores[~is_own].mean()


def test_the_tables_say_what_a_log_of_choices_and_a_split_by_rows_mean(chosen: Trained) -> None:
    table = markdown((chosen.folder / files.METRICS_FILE).read_text())
    assert "`is_chosen` is 1 in every row" in table
    assert "Split by rows" in table
    assert "slates as served" in table


def test_what_is_bought_again_is_never_seen(chosen: Trained) -> None:
    write_features(chosen.prepared, "own")
    assert len(pd.read_parquet(chosen.prepared.folder / "features" / SEEN_FILE)) == 0
    metrics = json.loads((chosen.folder / files.METRICS_FILE).read_text())
    assert metrics["test"]["relevant"] > 100, "what was chosen before is to be found again"


def test_three_users_and_five_items_have_vectors_and_a_popular_slate(tmp_path: Path) -> None:
    tables = odd_tables()
    log = pd.DataFrame({"user_id": [0, 1, 2, 0, 1, 2], "item_id": [0, 1, 2, 3, 0, 1]}).assign(
        **{"is taken, or not": [1, 0, 1, 1, 1, 0], "is_late": 0, "context_group by": 0},
        timestamp=pd.date_range("2025-03-01", periods=6, freq="D", tz="UTC"),
    )
    declaration = copy.deepcopy(DECLARATION) | {
        "name": "tiny",
        "checks": {"min_users": 3, "min_items": 5, "min_interactions": 6},
    }
    small = {"users": tables["users"].iloc[1:4].assign(user_id=range(3)), "items": tables["items"].head(5)}
    del declaration["items"]["item_select"]
    written = write_own(tmp_path / "tiny", small | {"interactions": log}, declaration)
    found = trained(catalog.prepare(str(written), tmp_path, tmp_path / "var", say=quiet))
    assert found.scores().shape == (3, 5)
    assert np.isfinite(found.scores()).all()
    popular = json.loads((found.folder / files.POPULAR_FILE).read_text())
    assert [item["item_id"] for item in popular["items"]] == [0, 2, 3, 1, 4]
