"""Training where there is next to nothing to learn from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.datasets import own_tables, quiet, write_own
from training.config import QualityLevel, TrainingSettings
from training.data.sources import catalog
from training.data.sources.synthetic import Size
from training.learn import unfitted_order
from training.pipeline import learn
from training.progress import TrainingProgress
from training.record import recorded
from training.recording import facts_of


@pytest.mark.parametrize("minutes", [60, 5], ids="{} min between interactions".format)
def test_a_data_set_whose_users_have_seen_everything_still_trains(tmp_path: Path, minutes: int) -> None:
    """Fifteen items, all seen early: nobody finds anything new. At 5 minutes train is within a snapshot."""
    tables = own_tables()
    times = tables["interactions"]["timestamp"]
    tables["interactions"]["timestamp"] = times[0] + (times - times[0]) * (minutes / 60)
    folder = write_own(tmp_path / "books", tables)
    prepared = catalog.prepare(str(folder), tmp_path, tmp_path / "var", size=Size(), say=quiet)
    settings = TrainingSettings(quality=QualityLevel.TINY).at_quality()
    with recorded(tmp_path, facts_of("books", "train", prepared, settings)) as record:
        learned, metrics = learn(prepared, settings, TrainingProgress(), record)
    assert learned.order == unfitted_order(["popular"])
    assert learned.order.ranking == 0, "alone, the ranker's order is the weakest"
    assert min(learned.order.retrieval, learned.order.sources["popular"]) > 0
    assert metrics["test"]["users"] == 0
    assert set(metrics["sections"]) == {"ranking"}
    assert 0 < metrics["sections"]["ranking"]["DLRM"]["log_loss"] < 1
