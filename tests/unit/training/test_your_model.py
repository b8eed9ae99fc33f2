"""Runs the ranker of docs/your-model.md, registered by the line that the page shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.contract.training.test_ranking_models import FIELDS, OF_CANDIDATES, SMALL, make_examples, make_rows
from training.config import TrainingSettings
from training.export.ranker import export_ranker, ranker_spec
from training.metrics.ranking import auc
from training.models import RANKING_MODELS, RETRIEVAL_MODELS, chosen_ranking
from training.ranking.config import RankerConfig
from training.ranking.model import RankingModel

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "your-model.md").read_text()


@pytest.fixture
def agreement(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The page's code as a module, in the registry by the page's own line."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (name, fit) = re.findall(r'`"(\w+)": (lambda _: \w+),`', PAGE)[0]
    module = ModuleType(f"training.ranking.{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "your-model.md", "exec"), module.__dict__)
    monkeypatch.setitem(RANKING_MODELS, name, eval(fit, module.__dict__))
    return module


def test_the_pages_ranker_learns_and_survives_its_export(agreement: ModuleType, tmp_path: Path) -> None:
    assert chosen_ranking(TrainingSettings(ranker="agreement")) == agreement.fit_agreement
    model = agreement.fit_agreement(make_examples(), 0, RankerConfig(**SMALL))
    assert isinstance(model, RankingModel)
    columns, labels = make_rows(500, 30)
    assert auc(labels, model.predict(columns)) > 0.75
    spec = ranker_spec(model.features, FIELDS, OF_CANDIDATES, "ranker.onnx")
    export_ranker(model, spec, make_rows(64, 31)[0], tmp_path)


def test_the_list_of_models_is_the_registry() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (retrieval|ranker)", (DOCS / "models.md").read_text(), re.MULTILINE)
    expected = [(name, "retrieval") for name in RETRIEVAL_MODELS] + [(n, "ranker") for n in RANKING_MODELS]
    assert listed == expected
