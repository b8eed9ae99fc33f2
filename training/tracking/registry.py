"""MLflow's registry: bundles as versions of a model per data set, with aliases that follow promotions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from contract.bundle import BundleError, read_manifest
from contract.bundles import LATEST, bundles_folder
from training.export.write import linked
from training.promotion import served
from training.record import TrainingState, read_facts, trainings
from training.tracking.bring import BUNDLE, read_mark
from training.tracking.store import ExperimentStore, experiment_name

CHAMPION, CANDIDATE = "champion", "candidate"


def register(var: Path, store: ExperimentStore) -> None:
    """Makes a version of every bundle that is an artifact of a run, and none of one that has its own."""
    known: dict[str, dict[str, str]] = {}
    for folder in trainings(var):
        try:
            facts = read_facts(folder)
        except ValueError:
            continue
        run_id = read_mark(folder).get("run")
        if not (facts.bundle and run_id and facts.state is TrainingState.FINISHED):
            continue
        name = experiment_name(facts.dataset)
        if name not in known:
            known[name] = versions(store, name)
        if facts.bundle not in known[name]:
            run = store.client.get_run(run_id)
            if not store.client.list_artifacts(run_id, BUNDLE):
                continue  # the bundle was gone before its run was brought
            make_model(store, name)
            tags = {BUNDLE: facts.bundle, "data_version": facts.data_version}
            source = f"{run.info.artifact_uri}/{BUNDLE}"
            store.client.create_model_version(name, source, run_id, tags=tags)


def follow(var: Path, store: ExperimentStore) -> list[str]:
    """Puts the aliases where the bundles say, and tells which moved.

    `champion`: of each data set the bundle that was promoted last and not rolled back. `candidate`: the one
    that was trained last of all, unless it is the champion: what `make promote` takes.
    """
    bundles = bundles_folder(var)
    champions = last_of_each(bundles, served(bundles))
    candidates = last_of_each(bundles, filter(None, [linked(bundles, LATEST)]))
    moved = []
    for model in store.client.search_registered_models("name LIKE 'shortlist-%'"):
        dataset = model.name.removeprefix(experiment_name(""))
        champion, candidate = champions.get(dataset), candidates.get(dataset)
        wanted = {CHAMPION: champion, CANDIDATE: candidate if candidate != champion else None}
        known = versions(store, model.name)
        for alias, bundle in wanted.items():
            version, now = known.get(bundle or ""), str(model.aliases.get(alias, ""))
            if version and version != now:
                store.client.set_registered_model_alias(model.name, alias, version)
                moved.append(f"{model.name}: {alias} is version {version}, {bundle}")
            elif now and not version:
                store.client.delete_registered_model_alias(model.name, alias)
                moved.append(f"{model.name}: no version is {alias}")
    return moved


def versions(store: ExperimentStore, model: str) -> dict[str, str]:
    """Gives the version of each bundle."""
    found: Any = store.client.search_model_versions(f"name = '{model}'")
    return {one.tags[BUNDLE]: str(one.version) for one in found if BUNDLE in one.tags}


def make_model(store: ExperimentStore, model: str) -> None:
    """Makes a model without versions, unless it is there."""
    if not store.client.search_registered_models(f"name = '{model}'"):
        store.client.create_registered_model(model)


def last_of_each(bundles: Path, names: Iterable[str]) -> dict[str, str]:
    """Gives of each data set the last bundle that is there."""
    last = {}
    for name in names:
        try:
            last[read_manifest(bundles / name, verify=False).dataset] = name
        except BundleError:
            continue
    return last
