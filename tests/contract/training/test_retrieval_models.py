"""The retrieval models of the role training, each held to what every one must do."""

from __future__ import annotations

from typing import Any

from tests.builders.towers_task import CONFIG
from tests.contract.training.retrieval_suite import RetrievalModelSuite
from training.config import TrainingSettings
from training.models import RETRIEVAL_MODELS
from training.retrieval.config import BprConfig, FactorsConfig

SMALL: dict[str, Any] = {"width": 8, "steps": 120, "batch_size": 64, "drawn": 16, "evaluations": 2}


class TestTwoTower(RetrievalModelSuite):
    fit = staticmethod(RETRIEVAL_MODELS["two_tower"](TrainingSettings(two_tower=CONFIG)))


class TestMfSoftmax(RetrievalModelSuite):
    config = FactorsConfig(learning_rate=0.02, **SMALL)
    fit = staticmethod(RETRIEVAL_MODELS["mf_softmax"](TrainingSettings(mf_softmax=config)))


class TestMfBpr(RetrievalModelSuite):
    config = BprConfig(learning_rate=0.02, **SMALL)
    fit = staticmethod(RETRIEVAL_MODELS["mf_bpr"](TrainingSettings(mf_bpr=config)))
