"""The bundle's two files: read together, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.bundle import BundleUnreadable, read_bundle
from tests.builders.gateway import BUNDLE, card_of, write_bundle


def test_reads_the_manifest_and_the_popular_items(tmp_path: Path) -> None:
    bundle = read_bundle(write_bundle(tmp_path))
    assert bundle.name == BUNDLE
    assert [item.item_id for item in bundle.popular[:3]] == [0, 1, 2]
    assert bundle.cards()[5] == card_of(5)  # the filterable column beside them is no display field


def test_a_missing_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        BundleUnreadable, match=r"manifest.json: No such file.*make train.*SHORTLIST_BUNDLE_DIR"
    ):
        read_bundle(tmp_path / "none")


def test_a_changed_popular_list_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    (tmp_path / "popular.json").write_text(json.dumps({"bundle": BUNDLE, "items": []}))
    with pytest.raises(BundleUnreadable, match="checksum differs"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"format": 1}, "format"), ({"bundle": "Other!"}, "bundle"), ({"items": None}, "items")],
)
def test_a_manifest_of_another_shape_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleUnreadable, match=f"not a bundle of format 2: {message}"):
        read_bundle(write_bundle(tmp_path, **changes))


def test_a_popular_list_of_another_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleUnreadable, match=f"belongs to bundle {BUNDLE}"):
        read_bundle(write_bundle(tmp_path, bundle="other-2"))


def test_a_link_is_followed_once_so_that_both_files_are_of_one_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a")
    (tmp_path / "current").symlink_to("a")
    assert read_bundle(tmp_path / "current").name == BUNDLE
