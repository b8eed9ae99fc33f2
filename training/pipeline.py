"""From a prepared data set to a bundle: learn, evaluate, export, write. What is served stays as it is."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from contract import bundle as files
from contract.bundle import ModelSpec, OrderSpec
from contract.bundles import LATEST, bundles_folder
from contract.dataset import DATASET_FILE, Dataset
from contract.drift import REFERENCE_FILE
from training.config import QualityLevel, TrainingSettings
from training.data.prepared import Prepared, dataset_yaml
from training.evaluation.assess import SERVED, assess, test_facts
from training.evaluation.notes import notes
from training.evaluation.protocols.protocol import PROTOCOLS
from training.evaluation.report import over_seeds
from training.examples.ranking import SAMPLE_ROWS
from training.examples.snapshot import candidate_columns
from training.export.ranker import export_ranker, ranker_spec
from training.export.reference import reference_of
from training.export.saved_models import FOLDER as SAVED_MODELS
from training.export.saved_models import keep_models
from training.export.serving_files import (
    dataset_card,
    popular_slate,
    sample_users,
    write_item_table,
    write_item_texts,
)
from training.export.tables import take_out
from training.export.towers import export_model, index_spec, model_spec, run_model
from training.export.write import (
    bundle_id,
    find_bundle,
    git_commit,
    machine,
    now,
    point,
    seal,
    staged,
    versions,
    write_json,
)
from training.identity import fingerprint
from training.learn import fit_retriever, learn_slates, renew_popularity
from training.model_training import ModelTraining, fresh_share
from training.models import check_models
from training.progress import TrainingProgress
from training.record import RANKING, TrainingRecord, recorded
from training.recording import add_results, facts_of
from training.retrieval.rows import user_weights_file
from training.retrieval.torchrec import OnnxTowers
from training.slates.choose import choose_forms, is_next_asked
from training.slates.slates import Learned
from training.slates.sources import FittedSource
from training.slates.sources import specs as source_specs

QUERY_USERS = 1000
"""Users whose vectors the bundle keeps, to measure an approximate index with."""


def train_bundle(
    prepared: Prepared,
    settings: TrainingSettings,
    steps: TrainingProgress,
    *,
    again: bool = False,
    reason: str = "",
) -> Path:
    """Trains and evaluates a bundle, gives its folder; one of the same is kept. `latest` points to it, and
    its manifest says the `reason`.

    Raises:
        SettingError, WorkersError: no bundle can be made by the settings; nothing is recorded.
    """
    bundles = bundles_folder(settings.var_dir)
    made_of = fingerprint(prepared, settings)
    name = None if again else find_bundle(bundles, prepared.dataset.name, made_of)
    if name:
        steps.say(f"{bundles / name}: data, settings and code unchanged, reused")
    else:
        check_models(settings, prepared.dataset.labels)
        set_threads(settings.threads)
        name = bundle_id(prepared.dataset.name, made_of, now())
        facts = facts_of(name, "train", prepared, settings)
        with recorded(settings.var_dir, facts) as record:
            learned, metrics = learn(prepared, settings, steps, record)
            with steps.step("Export"), staged(bundles, name) as folder:
                write_bundle(folder, name, prepared, settings, learned, metrics, reason)
            record.tell(bundle=name)
            keep_models(settings.var_dir / SAVED_MODELS / name, learned)
            if isinstance(learned.retriever.model, OnnxTowers):
                learned.retriever.model.keep_weights(user_weights_file(settings.var_dir, name))
    point(bundles, name, LATEST)
    return bundles / name


def measure(
    prepared: Prepared, protocol: str, settings: TrainingSettings, steps: TrainingProgress, *, again: bool
) -> Path:
    """Trains and evaluates on a data set that is divided by a protocol, gives the file of its metrics.

    One of the same data, settings and code is kept. Nothing is exported, and no bundle is made.

    Raises:
        DatasetError: the data set cannot be divided so.
        SettingError, WorkersError: nothing can be trained by the settings.
    """
    check_models(settings, prepared.dataset.labels)
    divided = PROTOCOLS[protocol].divide(prepared)
    made_of = fingerprint(divided, settings)
    file = settings.var_dir / "evaluations" / f"{prepared.dataset.name}-{protocol}-{made_of[:12]}.json"
    if file.exists() and not again:
        steps.say(f"{file}: data, settings and code unchanged, reused")
        return file
    set_threads(settings.threads)
    facts = facts_of(f"{file.stem}-{now():%Y%m%d-%H%M%S}", "measure", divided, settings)
    with recorded(settings.var_dir, facts) as record:
        _, metrics = learn(divided, settings, steps, record)
    file.parent.mkdir(parents=True, exist_ok=True)
    noted = [PROTOCOLS[protocol].note, *metrics["notes"]]
    write_json(file, {"protocol": protocol, **metrics, "notes": noted})
    return file


def learn(
    prepared: Prepared, settings: TrainingSettings, steps: TrainingProgress, record: TrainingRecord
) -> tuple[Learned, dict[str, Any]]:
    """Trains one model per seed and measures each; gives the first and the metrics of all."""
    training, sources = begin(prepared, settings, steps, record)
    settings = training.settings
    is_full = settings.quality is QualityLevel.FULL
    seeds = [settings.seed + i for i in range(settings.seeds if is_full else 1)]
    first: Learned | None = None
    peak, reports = 0, []
    for seed in seeds:
        retriever = training.retrieval(seed)
        ranker = training.ranking(retriever, seed)
        learned = Learned(training.encoders, retriever, ranker, training.examples.sample(seed), OrderSpec())
        with steps.step(f"Choose shares and order, seed {seed}"):
            learned = learn_slates(prepared, learned, sources, settings.k, settings.order_by)
            renew_popularity(prepared, retriever, settings.two_tower)
            steps.say(str(learned.order))
            if files.RANKING not in learned.order.weighed:
                steps.say("the ranker is not run then; SHORTLIST_ORDER_BY=ranker orders by it alone")
        first = first or learned
        peak = peak or peak_memory_mib()
        with steps.step(f"Evaluate, seed {seed}"):
            fit = partial(fit_retriever, settings=settings, seed=seed)
            reports.append(assess(prepared, settings, training.parts, training.examples, learned, seed, fit))
    assert first is not None
    metrics = {
        "dataset": prepared.dataset.name,
        "quality": settings.quality.value,
        "seeds": seeds,
        "test": test_facts(prepared, training.parts),
        "notes": notes(prepared),
        "served": SERVED,
        "training": {"seconds": training_seconds(steps, seeds[0]), "peak_memory_mib": peak},
        "sections": over_seeds(reports),
    }
    add_results(record, metrics, (SERVED, first.retriever.model.name, first.ranker.name))
    return first, metrics


def try_model(
    prepared: Prepared, settings: TrainingSettings, steps: TrainingProgress, record: TrainingRecord, part: str
) -> None:
    """Trains the settings' model of a part, `retrieval` or `ranking`, as a bundle's is, and records what
    validation says of it. The test part is not looked at, and nothing is exported."""
    set_threads(settings.threads)
    training, _ = begin(prepared, settings, steps, record)
    retriever = training.retrieval(settings.seed)
    if part == RANKING:
        training.ranking(retriever, settings.seed)


def begin(
    prepared: Prepared, settings: TrainingSettings, steps: TrainingProgress, record: TrainingRecord
) -> tuple[ModelTraining, list[FittedSource]]:
    """Makes ready what the models are trained on, and the other sources, which say how."""
    training = ModelTraining.of(prepared, settings, steps, record)
    with steps.step("Fit the other sources"):
        sources = choose_forms(prepared)
        if not is_next_asked(prepared, sources):
            training = replace(training, settings=settings.without_fresh_steps())
    return training, sources


def training_seconds(steps: TrainingProgress, seed: int) -> dict[str, float]:
    """Gives what the steps of one seed's training took, without the evaluation."""
    others = ("Prepare", "Load", "Evaluate", "Export")
    return {
        name: round(took, 1)
        for name, took in steps.seconds.items()
        if not name.startswith(others) and (", seed" not in name or name.endswith(f", seed {seed}"))
    }


def peak_memory_mib() -> int:
    """The most memory that this process has held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def write_bundle(
    folder: Path,
    name: str,
    prepared: Prepared,
    settings: TrainingSettings,
    learned: Learned,
    metrics: Mapping[str, Any],
    reason: str = "",
) -> None:
    """Writes every file of a bundle into an empty folder, the manifest last.

    Raises:
        ExportError: a model does not survive the conversion.
    """
    dataset = prepared.dataset
    models = write_models(folder, prepared, settings, learned)
    learned.encoders.save(folder / files.ENCODERS_FILE)
    for source in learned.sources:
        source.save(folder)
    write_item_table(prepared, folder / files.ITEM_TABLE_FILE)
    np.save(folder / files.ITEM_IDS_FILE, prepared.items["item_id"].to_numpy(np.int64))
    if dataset.item_id_dtype == "string":
        write_item_texts(prepared, folder)
    reference = reference_of(prepared, learned, settings.k, settings.seed)
    write_json(folder / REFERENCE_FILE, reference.model_dump(mode="json"))
    write_json(folder / files.POPULAR_FILE, popular_slate(prepared, name))
    write_json(folder / files.METRICS_FILE, {"bundle": name} | dict(metrics))
    (folder / files.CARD_FILE).write_text(dataset_card(prepared), "utf-8")
    (folder / DATASET_FILE).write_text(dataset_yaml(dataset), "utf-8")
    made = {
        "bundle": name,
        "created_at": now().isoformat(timespec="seconds"),
        "reason": reason,
        "trained_until": prepared.split.train_until.isoformat(),
        "git_commit": git_commit(),
        "seed": settings.seed,
        "versions": versions(),
        "machine": machine(settings.threads),
        "order": learned.order,
        "sources": source_specs(learned.sources),
        "fresh_share": fresh_share(learned.retriever),
        "sample_user_ids": sample_users(prepared, settings.seed),
    }
    seal(folder, made | models | dataset_facts(dataset))


def write_models(
    folder: Path, prepared: Prepared, settings: TrainingSettings, learned: Learned
) -> dict[str, Any]:
    """Writes both encoders, the ranker, and the vectors of all items and of some users; gives what the
    manifest says of them.

    Raises:
        ExportError: a model does not survive the conversion.
    """
    specs, fields = export_towers(folder, learned, settings.seed), learned.encoders.fields
    of_candidates = candidate_columns(prepared.dataset)
    ranker = ranker_spec(learned.ranker.features, fields, of_candidates, files.RANKER_FILE)
    export_ranker(learned.ranker, ranker, learned.sample, folder)
    vectors = run_model(folder / files.ITEM_TOWER_FILE, specs["item_tower"], learned.retriever.catalogue)
    np.save(folder / files.ITEM_VECTORS_FILE, vectors.astype(np.float32))
    queries = user_vectors(folder, specs["user_tower"], prepared, learned, settings.seed)
    np.save(folder / files.USER_VECTORS_FILE, queries)
    specs["user_tower"], ranker, tables = take_out(
        folder, settings.tables_beside, fields, specs["user_tower"], ranker
    )
    return {
        **specs,
        "ranker": ranker,
        "tables": tables,
        "items": len(vectors),
        "vector_width": vectors.shape[1],
        "score_range": learned.retriever.model.score_range,
        "index": index_spec(len(vectors), settings.flat_up_to),
    }


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Gives what the manifest says of the data set."""
    return {
        "dataset": dataset.name,
        "context": tuple(dataset.context),
        "labels": dataset.labels,
        "event_types": dataset.event_types,
        "display": dataset.display,
        "display_name": dataset.display_name,
        "filters": dataset.filter_dtypes,
        "user_id_dtype": dataset.user_id_dtype,
        "item_id_dtype": dataset.item_id_dtype,
        "user_features": dataset.user_features,
    }


def user_vectors(
    folder: Path, spec: ModelSpec, prepared: Prepared, learned: Learned, seed: int
) -> npt.NDArray[np.float32]:
    """Encodes some users as of the data set's clock, (Q,D): what requests will search the index with."""
    histories, rng = learned.retriever.histories, np.random.default_rng(seed)
    known = len(histories.user_ids)
    users = rng.choice(known, min(QUERY_USERS, known), replace=False)
    columns = histories.as_of(users, prepared.dataset.clock())
    return run_model(folder / files.USER_TOWER_FILE, spec, columns).astype(np.float32)


def export_towers(folder: Path, learned: Learned, seed: int) -> dict[str, ModelSpec]:
    """Writes both encoders, each compared with its model on random real rows."""
    rng = np.random.default_rng(seed)
    model, histories, catalogue = (
        learned.retriever.model,
        learned.retriever.histories,
        learned.retriever.catalogue,
    )
    users = rng.integers(0, len(histories.user_ids), SAMPLE_ROWS)
    ends = rng.integers(histories.recent.starts[users], histories.recent.starts[users + 1] + 1)
    items = rng.integers(0, len(next(iter(catalogue.values()))), SAMPLE_ROWS)
    fields = learned.encoders.fields
    user = model_spec(model.user_features, fields, files.USER_TOWER_FILE, "user_vector")
    item = model_spec(model.item_features, fields, files.ITEM_TOWER_FILE, "item_vector")
    drawn = {name: values[items] for name, values in catalogue.items()}
    export_model(model.users_to_onnx(user), model.encode_users, user, histories.columns(users, ends), folder)
    export_model(model.items_to_onnx(item), model.encode_items, item, drawn, folder)
    return {"user_tower": user, "item_tower": item}


def set_threads(threads: int) -> None:
    """Limits TensorFlow's threads, before its first operation; later it is too late, and as it is."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        return
