"""From a prepared data set to a published bundle: learn, evaluate, export, write."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contract import bundle as files
from contract.arrays import Array
from contract.bundle import ModelSpec
from contract.dataset import DATASET_FILE
from training.config import Quality, TrainingSettings
from training.data.prepared import Prepared, dataset_yaml, read_stamp
from training.evaluation.assess import assess, test_facts
from training.evaluation.report import over_seeds
from training.examples.exposures import RankingRows, take
from training.export.ranker import candidate_columns, export_ranker, ranker_spec
from training.export.saved_models import FOLDER as SAVED_MODELS
from training.export.saved_models import keep_models
from training.export.serving_files import dataset_card, popular_slate, sample_users, write_item_table
from training.export.towers import Model, export_model, index_spec, model_spec, run_model
from training.export.write import (
    bundle_id,
    find_bundle,
    git_commit,
    now,
    publish,
    seal,
    staged,
    versions,
    write_json,
)
from training.learn import (
    Learned,
    fit_encoders,
    fit_ranker,
    fit_retrieval,
    learn_order,
    make_candidates,
    make_rows,
)
from training.progress import Steps

SAMPLE_ROWS = 512
"""Encoded real rows on which every export is compared with TensorFlow."""
QUERY_USERS = 1000
"""Users whose vectors the bundle keeps, to measure an approximate index with."""
CODE = Path(__file__).parent.parent


def train_bundle(
    prepared: Prepared, settings: TrainingSettings, steps: Steps, *, again: bool = False
) -> Path:
    """Trains, evaluates and publishes a bundle, gives its folder; one made of the same is kept."""
    bundles = settings.var_dir / "bundles"
    made_of = fingerprint(prepared, settings)
    name = None if again else find_bundle(bundles, prepared.dataset.name, made_of)
    if name:
        steps.say(f"{bundles / name}: data, settings and code unchanged, reused")
    else:
        set_threads(settings.threads)
        name = bundle_id(prepared.dataset.name, made_of, now())
        learned, metrics = learn(prepared, settings, steps)
        with steps.step("Export"), staged(bundles, name) as folder:
            write_bundle(folder, name, prepared, settings, learned, metrics)
        keep_models(settings.var_dir / SAVED_MODELS / name, learned)
    publish(bundles, name)
    return bundles / name


def learn(prepared: Prepared, settings: TrainingSettings, steps: Steps) -> tuple[Learned, dict[str, Any]]:
    """Trains one model per seed and measures each; gives the first and the metrics of all."""
    with steps.step("Make the ranker's rows"):
        rows = make_rows(prepared)
        counts = (len(rows.train), len(rows.histories), len(rows.validation))
        steps.say("{:,} train, {:,} of histories, {:,} validation".format(*counts))
    with steps.step("Fit the workflow"):
        encoders = fit_encoders(prepared, rows.train)
    is_full = settings.quality is Quality.FULL
    seeds = [settings.seed + i for i in range(settings.seeds if is_full else 1)]
    first: Learned | None = None
    reports = []
    for seed in seeds:
        with steps.step(f"Train the two towers, seed {seed}"):
            retrieval = fit_retrieval(prepared, encoders, settings, seed)
        with steps.step(f"Train the ranker, seed {seed}"):
            candidates = make_candidates(prepared, encoders, rows, retrieval, settings.k, seed)
            dlrm = fit_ranker(prepared, encoders, rows, settings, seed, candidates=candidates)
            order = learn_order(prepared, encoders, retrieval, dlrm, settings.k)
        ranked = sample_rows(rows.validation, seed).encoded(encoders, prepared.dataset)
        learned = Learned(encoders, retrieval, dlrm, order, ranked)
        first = first or learned
        with steps.step(f"Evaluate, seed {seed}"):
            reports.append(assess(prepared, settings, rows, learned, seed))
    assert first is not None
    return first, {
        "dataset": prepared.dataset.name,
        "quality": settings.quality.value,
        "seeds": seeds,
        "test": test_facts(prepared, rows),
        "sections": over_seeds(reports),
    }


def write_bundle(
    folder: Path,
    name: str,
    prepared: Prepared,
    settings: TrainingSettings,
    learned: Learned,
    metrics: Mapping[str, Any],
) -> None:
    """Writes every file of a bundle into an empty folder, the manifest last.

    Raises:
        ExportError: a model does not survive the conversion.
    """
    dataset = prepared.dataset
    specs = export_towers(folder, learned, settings.seed)
    of_candidates = candidate_columns(dataset)
    ranker = ranker_spec(learned.dlrm.features, learned.encoders.fields, of_candidates, files.RANKER_FILE)
    export_ranker(learned.dlrm, ranker, learned.ranked, folder)
    vectors = run_model(folder / files.ITEM_TOWER_FILE, specs["item_tower"], learned.retrieval.catalogue)
    learned.encoders.save(folder / files.ENCODERS_FILE)
    np.save(folder / files.ITEM_IDS_FILE, prepared.items["item_id"].to_numpy(np.int64))
    np.save(folder / files.ITEM_VECTORS_FILE, vectors.astype(np.float32))
    queries = user_vectors(folder, specs["user_tower"], prepared, learned, settings.seed)
    np.save(folder / files.USER_VECTORS_FILE, queries)
    write_item_table(prepared, folder / files.ITEM_TABLE_FILE)
    write_json(folder / files.POPULAR_FILE, popular_slate(prepared, name))
    write_json(folder / files.METRICS_FILE, {"bundle": name} | dict(metrics))
    (folder / files.CARD_FILE).write_text(dataset_card(prepared))
    (folder / DATASET_FILE).write_text(dataset_yaml(dataset))
    seal(
        folder,
        {
            "bundle": name,
            "dataset": dataset.name,
            "created_at": now().isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "seed": settings.seed,
            "versions": versions(),
            "items": len(vectors),
            "vector_width": vectors.shape[1],
            "score_range": learned.retrieval.two_tower.score_range,
            "index": index_spec(len(vectors), settings.flat_up_to),
            "order": learned.order,
            "context": tuple(dataset.context),
            "display": dataset.display,
            "display_name": dataset.display_name,
            "filters": {column: spec.dtype for column, spec in dataset.item_filters.items()},
            "sample_user_ids": sample_users(prepared, settings.seed),
            **specs,
            "ranker": ranker,
        },
    )


def sample_rows(rows: RankingRows, seed: int) -> RankingRows:
    """Draws some of the ranker's rows."""
    return take(rows, np.random.default_rng(seed).integers(0, len(rows), SAMPLE_ROWS))


def user_vectors(
    folder: Path, spec: ModelSpec, prepared: Prepared, learned: Learned, seed: int
) -> npt.NDArray[np.float32]:
    """Encodes some users as of the data set's clock, (Q,D): what requests will search the index with."""
    histories, rng = learned.retrieval.histories, np.random.default_rng(seed)
    known = len(histories.user_ids)
    users = rng.choice(known, min(QUERY_USERS, known), replace=False)
    columns = histories.as_of(users, prepared.dataset.clock())
    return run_model(folder / files.USER_TOWER_FILE, spec, columns).astype(np.float32)


def export_towers(folder: Path, learned: Learned, seed: int) -> dict[str, ModelSpec]:
    """Writes both towers, each compared with TensorFlow on random real rows."""
    rng = np.random.default_rng(seed)
    histories = learned.retrieval.histories
    users = rng.integers(0, len(histories.user_ids), SAMPLE_ROWS)
    items = rng.integers(0, len(next(iter(learned.retrieval.catalogue.values()))), SAMPLE_ROWS)
    ends = histories.recent.starts[users + 1]
    towers, fields = learned.retrieval.two_tower, learned.encoders.fields
    jobs: dict[str, tuple[Model, tuple[str, ...], str, str, Mapping[str, Array]]] = {
        "user_tower": (
            towers.user_tower,
            towers.user_features,
            files.USER_TOWER_FILE,
            "user_vector",
            histories.columns(users, ends),
        ),
        "item_tower": (
            towers.item_tower,
            towers.item_features,
            files.ITEM_TOWER_FILE,
            "item_vector",
            {name: values[items] for name, values in learned.retrieval.catalogue.items()},
        ),
    }
    specs: dict[str, ModelSpec] = {}
    for part, (model, features, file, output, sample) in jobs.items():
        specs[part] = model_spec(features, fields, file, output)
        export_model(model, specs[part], sample, folder)
    return specs


def fingerprint(prepared: Prepared, settings: TrainingSettings) -> str:
    """A hash of what a bundle is made of: the prepared data, the settings of training, and this code."""
    digest = hashlib.sha256()
    chosen = settings.model_dump_json(exclude={"data", "data_dir", "var_dir", "max_seen", "synthetic"})
    for text in (dataset_yaml(prepared.dataset), repr(sorted(read_stamp(prepared.folder).items())), chosen):
        digest.update(text.encode())
    for file in sorted((*CODE.glob("training/**/*.py"), *CODE.glob("contract/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def set_threads(threads: int) -> None:
    """Limits TensorFlow's threads, before its first operation; later it is too late, and as it is."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return
