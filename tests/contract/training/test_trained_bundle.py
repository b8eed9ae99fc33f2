"""What a training run leaves behind, as those who serve it rely on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contract import bundle as files
from contract import names
from contract.bundle import BundleError, Manifest, read_dataset, read_manifest
from contract.bundles import CURRENT, LATEST
from contract.encoders import OOV_CODE, Encoders
from training.data.prepared import Prepared
from training.data.raw import raw_arrays
from training.examples.exposures import RankingTable
from training.examples.snapshot import Candidates, items_as_of, unknown_user, users_as_of
from training.examples.split import all_user_ids
from training.export.towers import run_model
from training.export.write import linked
from training.pipeline import QUERY_USERS
from training.promotion import slate_quality
from training.record import FOLDER, read_facts, read_metrics, read_tables

Bundle = tuple[Prepared, Path]


@pytest.fixture(scope="module")
def manifest(small_bundle: Bundle) -> Manifest:
    return read_manifest(small_bundle[1])


def test_the_manifest_names_every_file_and_how_it_was_made(small_bundle: Bundle, manifest: Manifest) -> None:
    prepared, folder = small_bundle
    assert {path.name for path in folder.iterdir()} == {*manifest.checksums, files.MANIFEST_FILE}
    assert manifest.bundle == folder.name == linked(folder.parent, LATEST)
    assert linked(folder.parent, CURRENT) is None, "training does not promote"
    assert manifest.dataset == prepared.dataset.name
    assert {"python", "numpy", "nvtabular", "merlin-models", "tensorflow-cpu", "onnx"} <= set(
        manifest.versions
    )
    assert manifest.git_commit
    assert read_dataset(folder) == prepared.dataset.model_copy(
        update={"split": read_dataset(folder).split, "as_of": read_dataset(folder).as_of}
    )


def test_a_training_leaves_its_record(small_bundle: Bundle, bundle_var: Path) -> None:
    folder = small_bundle[1]
    facts = read_facts(bundle_var / FOLDER / folder.name)
    assert (facts.state, facts.bundle, facts.dataset) == ("finished", folder.name, "synthetic")
    assert {"seed", "two_tower.width", "dlrm.top"} <= set(facts.parameters)
    measured = read_metrics(bundle_var / FOLDER / folder.name)
    steps = [one.step for one in measured if one.name == "retrieval/validation"]
    assert len(steps) > 1
    assert steps == sorted(steps)
    content = json.loads((folder / files.METRICS_FILE).read_text())
    served = [one.value for one in measured if one.name == "test/end_to_end/ndcg@10"]
    assert served == [slate_quality(content)]
    tables = read_tables(bundle_var / FOLDER / folder.name)
    assert sum(row["rows"] for row in tables["calibration"]) > 0
    assert {row["section"] for row in tables["evaluation"]} == set(content["sections"])


def test_a_changed_file_is_noticed_before_it_is_read(small_bundle: Bundle, tmp_path: Path) -> None:
    for path in small_bundle[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / files.RANKER_FILE).write_bytes(b"other")
    with pytest.raises(BundleError, match=r"ranker\.onnx: its checksum differs"):
        read_manifest(tmp_path)


def test_every_catalogue_item_has_a_vector_within_the_stated_range(
    small_bundle: Bundle, manifest: Manifest
) -> None:
    prepared, folder = small_bundle
    ids, vectors = (np.load(folder / name) for name in (files.ITEM_IDS_FILE, files.ITEM_VECTORS_FILE))
    assert ids.tolist() == prepared.items[names.ITEM_ID].tolist() == sorted(ids)
    assert vectors.shape == (manifest.items, manifest.vector_width)
    assert vectors.dtype == np.float32
    encoders = Encoders.load(folder / files.ENCODERS_FILE)
    users = encoders.encode_all(users_as_of(prepared, prepared.dataset.clock()))
    scores = run_model(folder / files.USER_TOWER_FILE, manifest.user_tower, users) @ vectors.T
    low, high = manifest.score_range
    assert low - 1e-6 <= scores.min() < scores.max() <= high + 1e-6
    assert scores.std() > 0.01


def test_kept_user_vectors_are_those_that_the_index_will_be_searched_with(
    small_bundle: Bundle, manifest: Manifest
) -> None:
    prepared, folder = small_bundle
    vectors = np.load(folder / files.USER_VECTORS_FILE)
    assert vectors.shape == (min(QUERY_USERS, len(all_user_ids(prepared))), manifest.vector_width)
    encoders = Encoders.load(folder / files.ENCODERS_FILE)
    users = encoders.encode_all(users_as_of(prepared, prepared.dataset.clock()))
    served = run_model(folder / files.USER_TOWER_FILE, manifest.user_tower, users)
    differences = [float(np.abs(served - vector).max(axis=1).min()) for vector in vectors]
    assert max(differences) < 1e-5


def test_items_without_features_and_unknown_users_have_vectors_and_scores(
    small_bundle: Bundle, manifest: Manifest
) -> None:
    prepared, folder = small_bundle
    encoders = Encoders.load(folder / files.ENCODERS_FILE)
    unknown = encoders.encode_all(unknown_user(prepared.dataset))
    assert unknown[names.USER_ID].tolist() == [OOV_CODE]
    vector = run_model(folder / files.USER_TOWER_FILE, manifest.user_tower, unknown)
    assert np.isfinite(vector).all()
    nowhere = pd.DataFrame({name: [None] for name in prepared.items}).assign(item_id=10**9)
    columns = {names.ITEM_ID: prepared.dataset.items[names.ITEM_ID], **prepared.dataset.item_catalog}
    item = encoders.encode_all(raw_arrays(nowhere, columns))
    assert np.isfinite(run_model(folder / files.ITEM_TOWER_FILE, manifest.item_tower, item)).all()


def test_the_popular_slate_is_available_ranked_and_shown(small_bundle: Bundle, manifest: Manifest) -> None:
    folder = small_bundle[1]
    popular = json.loads((folder / files.POPULAR_FILE).read_text())
    assert popular["bundle"] == manifest.bundle
    scores = [item["score"] for item in popular["items"]]
    assert scores == sorted(scores, reverse=True)
    table = pd.read_parquet(folder / files.ITEM_TABLE_FILE).set_index(names.ITEM_ID)
    chosen = table.loc[[item[names.ITEM_ID] for item in popular["items"]]]
    assert chosen[names.IS_AVAILABLE].all()
    assert not table[names.IS_AVAILABLE].all()
    assert [item["item_name"] for item in popular["items"]] == chosen["item_name"].tolist()
    for name in manifest.filters:
        values = [set(np.atleast_1d(item[name])) for item in popular["items"]]
        assert values == [set(np.atleast_1d(value)) for value in chosen[name]]
    assert manifest.filters
    assert len(popular["items"]) == min(2500, int(table[names.IS_AVAILABLE].sum()))


def test_sample_users_have_a_history(small_bundle: Bundle, manifest: Manifest) -> None:
    prepared, _ = small_bundle
    assert len(manifest.sample_user_ids) == 20
    users = users_as_of(prepared, prepared.dataset.clock())
    rows = np.searchsorted(all_user_ids(prepared), manifest.sample_user_ids)
    assert (users[names.USER_RECENT_ITEM_IDS][rows, 0] != names.NULL_INT).all()


def test_metrics_cover_the_chain_and_its_baselines(small_bundle: Bundle) -> None:
    metrics = json.loads((small_bundle[1] / files.METRICS_FILE).read_text())
    sections = metrics["sections"]
    assert set(sections) >= {"ranking", "retrieval", "unknown_users", "end_to_end"}
    assert {"two-tower", "TopPop", "ItemKNN", "EASE"} <= set(sections["retrieval"])
    assert {"slates as served", "two-tower alone"} <= set(sections["end_to_end"])
    assert metrics["test"]["users"] > 0
    assert slate_quality(metrics) == sections["end_to_end"][metrics["served"]]["ndcg@10"] > 0


def test_candidates_are_the_rows_that_training_makes(small_bundle: Bundle) -> None:
    """The vectorised candidates of the evaluation, and the ranker's own rows, are the same numbers."""
    prepared, folder = small_bundle
    encoders = Encoders.load(folder / files.ENCODERS_FILE)
    at = prepared.split.validate_until
    rng = np.random.default_rng(0)
    users, items = (
        rng.integers(0, len(all_user_ids(prepared)), 40),
        rng.integers(0, len(prepared.items), (40, 25)),
    )
    made = Candidates(prepared.dataset, encoders, users_as_of(prepared, at), items_as_of(prepared, at))
    columns = made.columns(users, items)
    pairs = RankingTable.of(prepared).pairs(
        np.repeat(all_user_ids(prepared)[users], 25),
        prepared.items[names.ITEM_ID].to_numpy(np.int64)[items.ravel()],
        at,
    )
    expected = pairs.encoded(encoders, prepared.dataset)
    assert set(columns) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values, err_msg=name)


def test_the_same_seed_gives_the_same_metrics_and_vectors(
    small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.builders import bundles

    _, folder = small_bundle
    _, other = bundles.small_bundle(tmp_path_factory.mktemp("again"))
    first, second = (json.loads((f / files.METRICS_FILE).read_text())["sections"] for f in (folder, other))
    assert first == second
    np.testing.assert_array_equal(
        np.load(folder / files.ITEM_VECTORS_FILE), np.load(other / files.ITEM_VECTORS_FILE)
    )


def test_what_is_unchanged_is_kept(small_bundle: Bundle, bundle_var: Path) -> None:
    from tests.builders import bundles

    _, folder = small_bundle
    before = (folder / files.MANIFEST_FILE).stat()
    _, again = bundles.small_bundle(bundle_var)
    assert again == folder
    assert (folder / files.MANIFEST_FILE).stat() == before
