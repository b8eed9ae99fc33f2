"""What a search may choose from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from training.config import SettingError, TrainingSettings
from training.tuning.space import SPACE, current, read_space
from training.tuning.trial import TrialRunner


@pytest.mark.parametrize("model", yaml.safe_load(SPACE.read_text()))
def test_every_model_of_the_projects_own_space_can_be_searched(model: str) -> None:
    space = read_space(SPACE, model)
    now = current(space, TrainingSettings(), model)
    assert now.keys() == space.settings.keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dlrm: {part: ranking, settings: {l2: [0]}}", "MODEL=two_tower: is not searched by"),
        ("two_tower: {part: retrieval, settings: {}}", "two_tower.settings: "),
        ("two_tower: {part: both, settings: {width: [1]}}", "two_tower.part: "),
        ("two_tower: {part: retrieval, settings: {widht: [1]}}", "two_tower.widht: there is no such setting"),
        ("two_tower: {part: retrieval, settings: {width: [8, 0]}}", "two_tower.width=0: "),
        ("two_tower: {part: retrieval, settings: {ridge: {low: 0, high: 1, scale: log}}}", "low must be"),
        ("two_tower: {part: retrieval, settings: {ridge: {low: 2, high: 1}}}", "low must be below high"),
        ("two_tower: {part: retrieval, settings: {user_dropout: {low: 0, high: 1}}}", "user_dropout=1"),
        ("two_tower: {part: retrieval, settings: {width: {low: 8, high: 16}}}", "two_tower.width=10.96: "),
        ("two_tower: {part: retrieval, settings: {ridge: []}}", "two_tower.settings.ridge.values: "),
        ("{", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(SettingError) as refused:
        read_space(file, "two_tower")
    assert said in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_trial_keeps_what_the_file_of_settings_says_beside_what_is_searched(tmp_path: Path) -> None:
    base = {"seed": 3, "dlrm": {"width": 8, "l2": 0.5}}
    space = read_space(SPACE, "dlrm")
    runner = TrialRunner("search", "dlrm", space, base, tmp_path, Path("python"), tmp_path, {})
    assert runner.settings({"l2": 0.0123456, "top": [8, 4]}) == {
        "seed": 3,
        "ranker": "dlrm",
        "dlrm": {"width": 8, "l2": 0.01235, "top": [8, 4]},
    }
    assert runner.name({"l2": 0.1}) == runner.name({"l2": 0.1}) != runner.name({"l2": 0.2})
