"""The models that a bundle can be made of, by name: one line each; the settings choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from training.chosen_trainer import check_trainer
from training.config import SettingError, TrainingSettings
from training.ranking.dcn import fit_dcn
from training.ranking.deep_fm import fit_deep_fm
from training.ranking.dlrm import fit_dlrm
from training.ranking.model import FitRanking
from training.ranking.multi_task import fit_mmoe, fit_ple
from training.ranking.neumf import fit_neumf
from training.ranking.wide_deep import fit_wide_deep
from training.retrieval.matrix_factorization import fit_matrix_factorization
from training.retrieval.model import FitRetrieval
from training.retrieval.torchrec import fit_torchrec
from training.retrieval.two_tower import fit_two_tower

Chosen = TypeVar("Chosen")

TRAINERS: dict[str, Callable[[TrainingSettings], FitRetrieval]] = {
    "merlin": lambda settings: partial(fit_two_tower, config=settings.two_tower),
    "torchrec": lambda settings: partial(
        fit_torchrec,
        config=settings.two_tower,
        torchrec=settings.torchrec,
        workers=settings.workers,
        folder=settings.var_dir / "torchrec",
    ),
}
RETRIEVAL_MODELS: dict[str, Callable[[TrainingSettings], FitRetrieval]] = {
    "two_tower": lambda settings: TRAINERS[settings.trainer](settings),
    "mf_softmax": lambda settings: partial(fit_matrix_factorization, config=settings.mf_softmax),
    "mf_bpr": lambda settings: partial(fit_matrix_factorization, config=settings.mf_bpr),
}
MULTI_TASK_MODELS: dict[str, Callable[[TrainingSettings], FitRanking]] = {
    "mmoe": lambda settings: partial(fit_mmoe, config=settings.mmoe, weights=settings.task_weights),
    "ple": lambda settings: partial(fit_ple, config=settings.ple, weights=settings.task_weights),
}
"""Rankers that learn every label, whose probabilities `task_weights` weighs."""
RANKING_MODELS: dict[str, Callable[[TrainingSettings], FitRanking]] = {
    "dlrm": lambda settings: partial(fit_dlrm, config=settings.dlrm),
    "dcn": lambda settings: partial(fit_dcn, config=settings.dcn),
    "deep_fm": lambda settings: partial(fit_deep_fm, config=settings.deep_fm),
    "wide_deep": lambda settings: partial(fit_wide_deep, config=settings.wide_deep),
    "neumf": lambda settings: partial(fit_neumf, config=settings.neumf),
    **MULTI_TASK_MODELS,
}


def chosen_retrieval(settings: TrainingSettings) -> FitRetrieval:
    """Gives what fits the retrieval model of the settings.

    Raises:
        SettingError: there is none of that name, or its trainer does not go with other settings.
        WorkersError: the batch does not divide among the trainer's processes.
    """
    check_trainer(settings)
    return _chosen(RETRIEVAL_MODELS, "SHORTLIST_RETRIEVAL", settings.retrieval)(settings)


def check_models(settings: TrainingSettings, labels: Sequence[str]) -> None:
    """Looks whether a bundle can be made by the settings, before anything is trained or recorded.

    Raises:
        SettingError: there is no model of a name, no label of one that is weighed, or nothing weighs it.
        WorkersError: the batch does not divide among the trainer's processes.
    """
    chosen_ranking(settings), chosen_retrieval(settings)
    check_task_weights(settings, labels, [settings.ranker])


def check_task_weights(settings: TrainingSettings, labels: Sequence[str], rankers: Sequence[str]) -> None:
    """Compares the labels that are weighed with those that the data set has; looks whether any of the rankers
    that are to be trained weighs them.

    Raises:
        SettingError: one is not there, no weight differs from 0, or every ranker scores by one label alone.
    """
    for name in settings.task_weights:
        if name not in labels:
            choice = " or ".join(labels)
            raise SettingError(f"SHORTLIST_TASK_WEIGHTS: there is no label {name}; choose {choice}")
    if settings.task_weights and not any(settings.task_weights.values()):
        raise SettingError("SHORTLIST_TASK_WEIGHTS: all are 0, which orders nothing; give one a weight")
    if settings.task_weights and rankers and not MULTI_TASK_MODELS.keys() & set(rankers):
        raise SettingError(
            f"SHORTLIST_TASK_WEIGHTS: no weight counts in {', '.join(rankers)}; choose "
            f"{' or '.join(MULTI_TASK_MODELS)} (SHORTLIST_RANKER), or unset it"
        )


def chosen_ranking(settings: TrainingSettings) -> FitRanking:
    """Gives what fits the ranking model of the settings.

    Raises:
        SettingError: there is none of that name.
    """
    return _chosen(RANKING_MODELS, "SHORTLIST_RANKER", settings.ranker)(settings)


def _chosen(models: dict[str, Chosen], setting: str, name: str) -> Chosen:
    if name not in models:
        raise SettingError(f"{setting}={name}: there is no such model; choose {' or '.join(models)}")
    return models[name]
