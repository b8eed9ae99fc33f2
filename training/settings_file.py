"""Settings from a file, `make train SETTINGS=file`: YAML of the fields of training's settings by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SETTING = "SHORTLIST_SETTINGS"


class SettingsFileError(ValueError):
    """Says which file, which field of it and what is wrong with it."""


class SettingsFile(PydanticBaseSettingsSource):
    """The file that the environment names, or none."""

    def __call__(self) -> dict[str, Any]:
        """Reads it.

        Raises:
            SettingsFileError: it is not there, is no YAML, or a field is unknown or wrong; one line names it.
        """
        path = os.environ.get(SETTING)
        return read_file(Path(path), self.settings_cls) if path else {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Is not asked: a file is read whole."""
        del field
        return None, field_name, False


def read_file(path: Path, kind: type[BaseSettings]) -> dict[str, Any]:
    """Reads fields of `kind` from a YAML file.

    Raises:
        SettingsFileError: as above.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsFileError(f"SETTINGS={path}: {error.strerror}; name a file of settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsFileError(f"SETTINGS={path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsFileError(f"SETTINGS={path}: must hold settings by name, as `seed: 1`")
    for name, value in values.items():
        check(path, kind, str(name), value)
    return values


def check(path: Path, kind: type[BaseSettings], name: str, value: Any) -> None:
    """Compares one field of a file with what it has to be.

    Raises:
        SettingsFileError: as above.
    """
    field = kind.model_fields.get(name)
    if field is None:
        raise SettingsFileError(
            f"SETTINGS={path}: {name}: there is no such setting; training/config.py lists them"
        )
    try:
        allowed: Any = Annotated[field.annotation, field]
        TypeAdapter(allowed).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, (name, *first["loc"])))
        given = "" if first["type"] == "extra_forbidden" else f"={first['input']}"
        why = "there is no such setting" if not given else first["msg"]
        raise SettingsFileError(
            f"SETTINGS={path}: {at}{given}: {why}; training/config.py says what may stand there"
        ) from None
