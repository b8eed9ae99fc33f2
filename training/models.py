"""The models that a bundle can be made of, by name: one line each; the settings choose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from training.config import SettingError, TrainingSettings
from training.ranking.dlrm import fit_dlrm
from training.ranking.model import FitRanking
from training.retrieval.model import FitRetrieval
from training.retrieval.two_tower import fit_two_tower

Chosen = TypeVar("Chosen")

RETRIEVAL_MODELS: dict[str, Callable[[TrainingSettings], FitRetrieval]] = {
    "two_tower": lambda settings: partial(fit_two_tower, config=settings.two_tower),
}
RANKING_MODELS: dict[str, Callable[[TrainingSettings], FitRanking]] = {
    "dlrm": lambda settings: partial(fit_dlrm, config=settings.dlrm),
}


def chosen_retrieval(settings: TrainingSettings) -> FitRetrieval:
    """Gives what fits the retrieval model of the settings.

    Raises:
        SettingError: there is none of that name.
    """
    return _chosen(RETRIEVAL_MODELS, "SHORTLIST_RETRIEVAL", settings.retrieval)(settings)


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
