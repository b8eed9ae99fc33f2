"""Everything offline: `python -m training`, then one of the commands that `--help` lists."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from contract.arithmetic import ArithmeticFault, check_matmul
from contract.bundle import METRICS_FILE, BundleError, Manifest, read_manifest
from contract.bundles import CURRENT, bundles_folder
from contract.dataset import DatasetError
from contract.environment import explain_full_disk, is_full_disk
from contract.quiet import quieten
from training.chosen_trainer import check_trainer
from training.config import QualityLevel, SettingError, TrainingSettings, load_settings
from training.data.first_draft import write_draft
from training.data.prepared import Prepared
from training.data.sources.catalog import prepare
from training.data.sources.synthetic import Size
from training.evaluation.protocols.protocol import PROTOCOLS, TIME_SPLIT
from training.export.write import linked, write_json
from training.features.tables import write_features
from training.identity import data_version, fingerprint
from training.progress import TrainingProgress
from training.promotion import METRIC, listing, measured_again_file, promote, rollback, slate_quality
from training.record import FOLDER, PARTS, end_with, is_at_work, recorded
from training.retrieval.task import TrainerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; 0, or 1 with one line per thing that is wrong."""
    settings = load_settings()
    chosen = _parser(settings).parse_args(arguments)
    changes = {name: value for name in ("data", "quality") if (value := getattr(chosen, name, None))}
    settings = settings.model_copy(update=changes).at_quality()
    try:
        chosen.run(settings, chosen, TrainingProgress())
    except (DatasetError, BundleError, SettingError, TrainerError, ArithmeticFault) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except BrokenPipeError:
        return 1  # who reads has said why
    except OSError as error:
        if not is_full_disk(error):
            raise
        sys.stderr.write(f"{explain_full_disk(error, settings.var_dir)}\n")
        return 1
    return 0


def run_init(_: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Writes a first `dataset.yaml` beside somebody's files."""
    file, open_ends = write_draft(chosen.folder)
    steps.say(f"{file}: written; read its comments, then `make data DATA={chosen.folder}`")
    for line in open_ends:
        steps.say(f"  to decide: {line}")


def run_prepare(settings: TrainingSettings, _: argparse.Namespace, steps: TrainingProgress) -> None:
    """Prepares the data set, or finds it prepared."""
    _prepared(settings, steps)


def run_train(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Prepares, trains and evaluates a bundle; what is unchanged is kept, and what is served stays."""
    prepared = _prepared_to_train(settings, steps)
    _quieten()
    with steps.step("Load TensorFlow and Merlin", "about 10 s"):
        from training.pipeline import train_bundle
    folder = train_bundle(prepared, settings, steps, again=chosen.again)
    steps.console.print(_table(folder), markup=False, soft_wrap=True)
    is_current = linked(folder.parent, CURRENT) == folder.name
    steps.say(f"{folder}: {'is current already' if is_current else 'next: make promote, which serves it'}")


def run_retrain(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Trains on all that is known by now, and measures the current bundle on the same newest days; what is
    served stays.

    Raises:
        SettingError: the current bundle is of another data set.
    """
    bundles = bundles_folder(settings.var_dir)
    current = linked(bundles, CURRENT)
    prepared = _prepared_to_train(settings, steps).to_its_end()
    if current:
        _check_data(settings, read_manifest(bundles / current, verify=False), prepared)
    _quieten()
    with steps.step("Load TensorFlow and Merlin", "about 10 s"):
        from training.pipeline import train_bundle
        from training.rival import measure_again
    folder = train_bundle(prepared, settings, steps, reason=chosen.reason)
    if current in (None, folder.name):
        steps.say(f"{folder}: {'is current already' if current else 'there is none to compare it with'}")
        return
    test = _metrics(folder)["test"]
    file = measured_again_file(bundles, str(current), test["fingerprint"])
    with steps.step(f"Measure {current} on the same days"):
        measured = measure_again(bundles / str(current), prepared, test, settings.k)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, measured)
        steps.say(f"{METRIC} {slate_quality(measured)}, of {folder.name} {slate_quality(_metrics(folder))}")


def _metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text())
    return metrics


def run_embeddings(settings: TrainingSettings, chosen: argparse.Namespace, _: TrainingProgress) -> None:
    """Lets the rows of users that lie beside the current bundle's models go on learning from what came since,
    and names the file of those that changed on standard output, if anything is new; all else that is said
    goes beside it.

    Raises:
        BundleError: the current bundle is damaged, or has no rows that can go on learning.
        SettingError: it is of another data set.
    """
    from training.changed_rows import ServedRows, measure_changed_rows, write_changed_rows

    steps = TrainingProgress(Console(stderr=True, highlight=False))
    check_matmul()
    # Before the data, which may take long: a bundle may have no rows that can learn.
    served = ServedRows.of(bundles_folder(settings.var_dir) / CURRENT, settings.var_dir)
    prepared = _prepared(settings, steps).to_its_end()
    _check_data(settings, served.manifest, prepared)
    with steps.step("Train the rows"):
        if chosen.measure:
            measure_changed_rows(served, prepared, settings, steps.say)
        elif path := write_changed_rows(served, prepared, settings, steps.say):
            sys.stdout.write(f"{path}\n")


def _check_data(settings: TrainingSettings, served: Manifest, prepared: Prepared) -> None:
    """Compares the data set with the current bundle's.

    Raises:
        SettingError: it is another one.
    """
    if served.dataset != prepared.dataset.name:
        raise SettingError(
            f"DATA={settings.data}: is {prepared.dataset.name}, and "
            f"{bundles_folder(settings.var_dir) / CURRENT} is of {served.dataset}; name that one's data, or "
            "begin with the other by `make train promote`"
        )


def run_trial(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Trains one model of the settings and keeps a record of what validation says of it; `--check` names
    what it would be of: its data set, the version of it, and the training's fingerprint."""
    prepared = _prepared_to_train(settings, steps)
    if chosen.check:
        identity = (prepared.dataset.name, data_version(prepared), fingerprint(prepared, settings))
        steps.console.print(" ".join(identity), markup=False, soft_wrap=True)
        return
    _quieten()
    with steps.step("Load TensorFlow and Merlin", "about 10 s"):
        from training.pipeline import try_model
        from training.recording import facts_of
    name = chosen.name or f"{prepared.dataset.name}-trial-{fingerprint(prepared, settings)[:8]}"
    facts = facts_of(name, "trial", prepared, settings, part_of=chosen.part_of)
    if chosen.part_of:
        whole = settings.var_dir / FOLDER / chosen.part_of
        if not (whole.is_dir() and is_at_work(whole)):
            raise SettingError(f"--part-of={chosen.part_of}: no search of this name is at work")
        end_with(whole)
    with recorded(settings.var_dir, facts) as record:
        try_model(prepared, settings, steps, record, chosen.part)


def run_compare(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Trains architectures side by side and prints one table; finished ones are kept."""
    prepared = _prepared_to_train(settings, steps)
    _quieten()
    with steps.step("Load TensorFlow and Merlin", "about 10 s"):
        from training.comparison import compare
        from training.evaluation.tables import replace_block
    table = compare(prepared, settings, [name for name in chosen.models.split(",") if name], steps)
    if chosen.write:
        replace_block(chosen.write, table, f"compare {prepared.dataset.name}")
        steps.say(f"{chosen.write}: written")
    else:
        steps.console.print(table, markup=False, soft_wrap=True)


def run_promote(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Makes a bundle current, if it is not worse than the one that is; or names the one that would be."""
    bundles, margin = bundles_folder(settings.var_dir), settings.promotion_margin
    move = promote(bundles, chosen.bundle, margin, force=chosen.force, is_check=chosen.check)
    current = linked(bundles, CURRENT)
    if chosen.check:
        steps.say(move.bundle if move else f"{current}")
    else:
        steps.say(str(move) if move else f"{bundles / CURRENT}: is {current} already")


def run_rollback(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Makes the bundle current that was so before; or names it."""
    move = rollback(bundles_folder(settings.var_dir), is_check=chosen.check)
    steps.say(move.bundle if chosen.check else f"{move}; it stays current until another one is promoted")


def run_bundles(settings: TrainingSettings, _: argparse.Namespace, steps: TrainingProgress) -> None:
    """Lists the bundles, and how `current` moved."""
    for line in listing(bundles_folder(settings.var_dir)):
        steps.say(line)


def run_evaluate(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> None:
    """Shows the metrics of a bundle, as they were measured when it was trained; by another protocol than its
    split by time, trains anew on the data set so divided.

    Raises:
        SettingError: what is asked for does not go together.
    """
    if chosen.protocol == TIME_SPLIT:
        if chosen.data or chosen.quality or chosen.again:
            raise SettingError(
                "--data, --quality, --again: a bundle is shown as it was measured when it was trained; take "
                "them out, or name a --protocol, which trains anew"
            )
        table = _table(chosen.bundle or bundles_folder(settings.var_dir) / CURRENT)
    elif chosen.bundle:
        raise SettingError(
            f"--bundle={chosen.bundle}: was trained on the split by time; take it out, as --protocol "
            f"{chosen.protocol} trains anew"
        )
    else:
        table = _by_protocol(settings, chosen, steps)
    if chosen.write:
        from training.evaluation.tables import replace_block

        replace_block(chosen.write, table)
        steps.say(f"{chosen.write}: written")
    else:
        steps.console.print(table, markup=False, soft_wrap=True)


def run_features(settings: TrainingSettings, _: argparse.Namespace, steps: TrainingProgress) -> None:
    """Computes the features of users and items, and what users have seen, for the feature repository."""
    prepared = _prepared(settings, steps)
    with steps.step("Compute features"):
        made = write_features(prepared, settings.data, max_seen=settings.max_seen)
        steps.say(f"features of {made.dataset} as of {made.as_of:%Y-%m-%d %H:%M:%S} UTC")


def run_shards(settings: TrainingSettings, _: argparse.Namespace, __: TrainingProgress) -> None:
    """Cuts the towers' training examples, and hands them to `training.shards.pack` through a pipe.

    Raises:
        SettingError: standard output is a terminal.
    """
    if sys.stdout.isatty():
        raise SettingError(
            "shards go through a pipe to `training.shards.pack`: write them with `make shards`"
        )
    steps = TrainingProgress(Console(stderr=True, highlight=False))
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # what libraries print goes beside the shards, not into them
        check_matmul()
        prepared = _prepared(settings, steps)
        _quieten()
        with steps.step("Load TensorFlow and Merlin", "about 10 s"):
            from training.examples.exposures import RankingTable
            from training.learn import fit_encoders, retrieval_task
            from training.shards.cut import send_examples
        with steps.step("Fit the workflow"):
            train = RankingTable.of(prepared).exposures(None, prepared.split.train_until)
            encoders = fit_encoders(prepared, train)
            task = retrieval_task(prepared, encoders, settings.two_tower, settings.seed)
        with steps.step("Cut the examples"):
            sizes = {"block_rows": settings.shard_rows, "lanes": settings.shard_lanes, "seed": settings.seed}
            name = prepared.dataset.name
            rows = send_examples(pipe, name, encoders, task.catalogue, [task.examples], **sizes)
            steps.say(f"{rows:,} examples")


def _prepared(settings: TrainingSettings, steps: TrainingProgress) -> Prepared:
    with steps.step("Prepare the data"):
        size = Size(**settings.synthetic.model_dump())
        return prepare(settings.data, settings.data_dir, settings.var_dir, size=size, say=steps.say)


def _prepared_to_train(settings: TrainingSettings, steps: TrainingProgress) -> Prepared:
    """Prepares the data, once nothing is known that training would stop at.

    Raises:
        ArithmeticFault: this machine multiplies wrongly.
        SettingError, WorkersError: the trainer does not go with other settings.
    """
    check_matmul()
    check_trainer(settings)
    return _prepared(settings, steps)


def _by_protocol(settings: TrainingSettings, chosen: argparse.Namespace, steps: TrainingProgress) -> str:
    prepared = _prepared_to_train(settings, steps)
    _quieten()
    with steps.step("Load TensorFlow and Merlin", "about 10 s"):
        from training.evaluation.tables import markdown
        from training.pipeline import measure
    return markdown(measure(prepared, chosen.protocol, settings, steps, again=chosen.again).read_text())


def _table(folder: Path) -> str:
    from training.evaluation.tables import markdown

    read_manifest(folder)
    return markdown((folder / METRICS_FILE).read_text())


def _quieten() -> None:
    """Keeps the libraries' notes, and the GPU that TensorFlow would take whole, out of the way."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    quieten()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _parser(settings: TrainingSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, run: object, help_: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help_)
        added.set_defaults(run=run)
        return added

    init = command("init", run_init, "look at a folder of files and write a first dataset.yaml")
    init.add_argument("folder", type=Path, help="the folder that holds your files")
    with_data = [
        command("prepare", run_prepare, "check a data set and write its three tables"),
        train := command("train", run_train, "train a bundle and evaluate it"),
        tried := command("trial", run_trial, "train one model; record what validation says, for `make tune`"),
        compared := command("compare", run_compare, "train architectures side by side, print one table"),
        retrained := command("retrain", run_retrain, "train on all that is known, beside the current bundle"),
        embedded := command("embeddings", run_embeddings, "train users' rows beside a bundle on what is new"),
        command("features", run_features, "compute features, which `feature_repo` brings to Redis"),
        command("shards", run_shards, "cut the towers' training examples, for `make shards`"),
    ]
    evaluate = command("evaluate", run_evaluate, "show the quality of a bundle, or by another protocol")
    for added in (*with_data, evaluate):
        added.add_argument("--data", help=f"a name or a folder (default: {settings.data})")
    for added in (train, evaluate):
        added.add_argument(
            "--quality",
            type=QualityLevel,
            choices=list(QualityLevel),
            help=f"default: {settings.quality.value}",
        )
        added.add_argument("--again", action="store_true", help="train even where nothing has changed")
    embedded.add_argument(
        "--measure", action="store_true", help="hold the test part back, say what it gains, and keep nothing"
    )
    retrained.add_argument("--reason", default="by hand", help="why, for the manifest")
    compared.add_argument("--models", default="", help="names, with commas between them (default: all)")
    compared.add_argument("--write", type=Path, help="put the table into this Markdown file")
    promoted = command(
        "promote", run_promote, "make a bundle current, if it is not worse than the one that is"
    )
    promoted.add_argument("--bundle", help="its name (default: the one trained last)")
    promoted.add_argument("--force", action="store_true", help="even where it is worse; the log says so")
    rolled_back = command("rollback", run_rollback, "make the bundle current that was so before")
    for moved in (promoted, rolled_back):
        moved.add_argument("--check", action="store_true", help="name the bundle, and move nothing")
    tried.add_argument("--part", choices=PARTS, default=PARTS[0], help=f"default: {PARTS[0]}")
    tried.add_argument("--name", help="of its record, below var/trainings")
    tried.add_argument("--part-of", help="the name of the search that it belongs to")
    tried.add_argument("--check", action="store_true", help="name what it would be of, and train nothing")
    command("bundles", run_bundles, "list the bundles, and how `current` moved")
    evaluate.add_argument(
        "--protocol",
        choices=[TIME_SPLIT, *PROTOCOLS],
        default=TIME_SPLIT,
        help=f"how the data is divided (default: {TIME_SPLIT}, the bundle's own); another trains anew",
    )
    evaluate.add_argument("--bundle", type=Path, help="the bundle's folder (default: the current one)")
    evaluate.add_argument("--write", type=Path, help="put the table into this Markdown file")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
