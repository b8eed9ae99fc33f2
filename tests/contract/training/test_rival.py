"""A bundle is measured on data that came after it as a new one is, and the gate compares the two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from contract.bundle import METRICS_FILE
from contract.names import ITEM_ID
from training.config import TrainingSettings
from training.data.prepared import Prepared
from training.promotion import judge, measured_again_file, slate_quality
from training.rival import measure_again

Bundle = tuple[Prepared, Path]
K = TrainingSettings().k


def test_on_its_own_test_part_it_does_as_was_measured_when_it_was_trained(small_bundle: Bundle) -> None:
    prepared, folder = small_bundle
    metrics = json.loads((folder / METRICS_FILE).read_text())
    again = measure_again(folder, prepared, metrics["test"], K)
    assert slate_quality(again) == pytest.approx(slate_quality(metrics), rel=0.01)
    assert again["test"] == metrics["test"]


def test_items_that_came_and_went_since_change_the_places_of_the_others_alone(small_bundle: Bundle) -> None:
    prepared, folder = small_bundle
    metrics = json.loads((folder / METRICS_FILE).read_text())
    gone, newest = prepared.items[ITEM_ID].iloc[0], prepared.items.iloc[[-1]]
    come = newest.assign(**{ITEM_ID: prepared.items[ITEM_ID].max() + 5})
    items = pd.concat([prepared.items[prepared.items[ITEM_ID] != gone], come], ignore_index=True)
    again = measure_again(folder, replace(prepared, items=items), metrics["test"], K)
    assert slate_quality(again) == pytest.approx(slate_quality(metrics), rel=0.15)


def test_the_gate_compares_on_the_newest_days_once_the_rival_was_measured_there(
    small_bundle: Bundle, tmp_path: Path
) -> None:
    _, folder = small_bundle
    metrics = json.loads((folder / METRICS_FILE).read_text())
    bundles = tmp_path / "bundles"
    for name, quality, test in (("old", 0.3, "then"), ("new", 0.2, "now and later")):
        made = bundles / name
        made.mkdir(parents=True)
        for file in folder.iterdir():
            (made / file.name).write_bytes(file.read_bytes())
        content = {**metrics, "test": {"fingerprint": test}}
        content["sections"]["end_to_end"][metrics["served"]]["ndcg@10"] = quality
        (made / METRICS_FILE).write_text(json.dumps(content))
    (bundles / "current").symlink_to("old")
    dataset = metrics["dataset"]
    passes, why = judge(bundles, "new", dataset, 0.03)
    assert (passes, "cannot be compared" in why) == (False, True)
    file = measured_again_file(bundles, "old", "now and later")
    file.parent.mkdir()
    again = {**metrics, "sections": {"end_to_end": {metrics["served"]: {"ndcg@10": 0.1}}}}
    file.write_text(json.dumps({**again, "test": {"fingerprint": "now and later"}}))
    passes, why = judge(bundles, "new", dataset, 0.03)
    assert passes
    assert "ndcg@10 0.2000, old has 0.1000" in why


def test_data_that_went_on_is_divided_anew_by_time(small_bundle: Bundle) -> None:
    prepared, _ = small_bundle
    divided = prepared.dataset.model_copy(update={"split": prepared.split})
    as_it_is = replace(prepared, dataset=divided)
    assert as_it_is.to_its_end() is as_it_is
    last = prepared.interactions.iloc[[-1]]
    later = last.assign(**{divided.timestamp: pd.Timestamp(prepared.split.test_until) + pd.Timedelta(days=2)})
    on = replace(as_it_is, interactions=pd.concat([prepared.interactions, later], ignore_index=True))
    assert on.to_its_end().dataset.as_of is None
    assert on.to_its_end().split.test_until > prepared.split.test_until
