"""What a search may choose from: a file of settings and their values, compared with those there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from training.config import SettingError, TrainingSettings
from training.settings_file import SettingsFileError, check

SPACE = Path(__file__).with_name("space.yaml")


class ValueRange(BaseModel):
    """Numbers between two ends, evenly or by their logarithm; `whole`: no fractions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    scale: Literal["even", "log"] = "even"
    whole: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> ValueRange:
        if self.low >= self.high or (self.scale == "log" and self.low <= 0):
            raise ValueError("low must be below high, and above 0 where the scale is log")
        return self


def form(value: Any) -> str:
    """Tells a list of values from a range, so that an error is of what was meant."""
    return "values" if isinstance(value, list) else "range"


Values = Annotated[
    Annotated[list[Any], Field(min_length=1), Tag("values")] | Annotated[ValueRange, Tag("range")],
    Discriminator(form),
]


class SearchSpace(BaseModel):
    """What is searched of one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: Literal["retrieval", "ranking"]
    """Which model of a bundle it is: it says what validation measures."""
    settings: Annotated[dict[str, Values], Field(min_length=1)]

    @property
    def chooser(self) -> str:
        """The setting that chooses the model of this part."""
        return "retrieval" if self.part == "retrieval" else "ranker"

    @property
    def is_more_better(self) -> bool:
        """Retrieval is judged by NDCG@100, the ranker by log loss."""
        return self.part == "retrieval"


def read_space(path: Path, model: str) -> SearchSpace:
    """Reads what is searched of a model.

    Raises:
        SettingError: the file, the model, or a setting or value of it is not what it has to be; one line.
    """
    try:
        models = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"SPACE={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingError(f"SPACE={path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(models, dict) or model not in models:
        known = " or ".join(models) if isinstance(models, dict) else "a model"
        raise SettingError(f"MODEL={model}: is not searched by {path}; choose {known}, or add it there")
    try:
        space = SearchSpace.model_validate(models[model])
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, (model, *first["loc"])))
        raise SettingError(f"SPACE={path}: {at}: {first['msg']}") from None
    for name, values in space.settings.items():
        for value in ends(values):
            try:
                check(path, TrainingSettings, model, {name: value})
            except SettingsFileError as error:
                raise SettingError(str(error).replace("SETTINGS=", "SPACE=", 1)) from None
    return space


def ends(values: list[Any] | ValueRange) -> list[Any]:
    """Gives what has to fit for all to fit: every value of a list, both ends of a range and what is drawn
    between them."""
    if not isinstance(values, ValueRange):
        return values
    between = values.low + 0.37 * (values.high - values.low)
    return [values.low, values.high, round(between) if values.whole else between]


def current(space: SearchSpace, settings: TrainingSettings, model: str) -> dict[str, Any]:
    """Gives what is set now of what is searched."""
    chosen = getattr(settings, model).model_dump(mode="json")
    return {name: chosen[name] for name in space.settings}
