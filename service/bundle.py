"""The two small files of a bundle that the gateway reads: `manifest.json` and `popular.json`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

MANIFEST_FILE = "manifest.json"
POPULAR_FILE = "popular.json"

Card = dict[str, str | None]
"""An item's display fields."""

ScoreRange = Annotated[
    tuple[float, float],
    WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}),
]
"""Described as a plain array: not every reader of OpenAPI knows `prefixItems`."""


class BundleUnreadable(ValueError):
    """Says which file of the bundle is missing or wrong, and what to do, in one line."""


class Manifest(BaseModel):
    """The part of a manifest that the gateway acts on, and shows under /v1/bundle."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal[2] = Field(exclude=True)
    bundle: str = Field(pattern=r"^[a-z0-9_-]+$", description="Name of the bundle.")
    dataset: str = Field(description="Name of the data set it was trained on.")
    created_at: str
    git_commit: str
    seed: int
    versions: dict[str, str] = Field(description="Libraries it was trained with.")
    items: int = Field(description="Items in the catalogue.")
    context: tuple[str, ...] = Field(description="Names that a request's `context` may use.")
    filters: dict[str, str] = Field(
        description="Columns that a request's `filters` may use, and their dtype."
    )
    display: tuple[str, ...] = Field(description="Fields shown with an item.")
    display_name: str | None = Field(description="The one of them that people read, if there is one.")
    score_range: ScoreRange = Field(description="Bounds of a retrieval score.")
    sample_user_ids: tuple[int, ...] = Field(description="A few known users to try.")
    checksums: dict[str, str] = Field(exclude=True)


class PopularItem(BaseModel):
    """One item of the popular list:

    its display fields, and any filterable columns that were written beside them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    item_id: int = Field(ge=0)
    score: float

    @property
    def fields(self) -> dict[str, Any]:
        """Everything beside the id and the score."""
        return self.__pydantic_extra__ or {}


class _Popular(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    bundle: str
    items: tuple[PopularItem, ...]


class Bundle(BaseModel):
    """One bundle as the gateway knows it."""

    model_config = ConfigDict(frozen=True)

    manifest: Manifest
    popular: tuple[PopularItem, ...] = Field(description="Best first.")

    @property
    def name(self) -> str:
        """The bundle's name, which is part of its Redis keys."""
        return self.manifest.bundle

    def cards(self) -> dict[int, Card]:
        """The display fields of the popular items, by item id; these need no Redis."""
        return {
            item.item_id: {name: _text(item.fields.get(name)) for name in self.manifest.display}
            for item in self.popular
        }


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def read_bundle(folder: Path) -> Bundle:
    """Reads both files of the same bundle, even where `folder` is a link that is swapped meanwhile.

    Raises:
        BundleUnreadable: a file is missing, does not parse, or differs from its checksum.
    """
    real = folder.resolve()
    try:
        manifest = Manifest.model_validate_json(_read(real / MANIFEST_FILE))
        data = _read(real / POPULAR_FILE)
        if hashlib.sha256(data).hexdigest() != manifest.checksums.get(POPULAR_FILE):
            raise BundleUnreadable(
                f"{real / POPULAR_FILE}: its checksum differs from the manifest; train again"
            )
        popular = _Popular.model_validate_json(data)
    except (ValidationError, json.JSONDecodeError) as error:
        raise BundleUnreadable(f"{real}: not a bundle of format 2: {_first(error)}; train again") from None
    if popular.bundle != manifest.bundle:
        raise BundleUnreadable(f"{real / POPULAR_FILE}: belongs to bundle {popular.bundle}; train again")
    return Bundle(manifest=manifest, popular=popular.items)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleUnreadable(
            f"{path}: {error.strerror}; run `make train`, or point SHORTLIST_BUNDLE_DIR to a bundle"
        ) from None


def _first(error: ValidationError | json.JSONDecodeError) -> str:
    if isinstance(error, ValidationError):
        wrong = error.errors()[0]
        return f"{'.'.join(str(part) for part in wrong['loc']) or 'file'}: {wrong['msg']}"
    return str(error)
