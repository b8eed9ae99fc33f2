"""The bundle's two files: read together, or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from contract.bundle import BundleError
from service.variant import read_bundle
from tests.builders.gateway import BUNDLE, card_of, make_variant, write_bundle


def test_reads_the_manifest_and_the_popular_items(tmp_path: Path) -> None:
    variant = make_variant(tmp_path)
    assert variant.name == BUNDLE
    assert [item.item_id for item in variant.popular[:3]] == [0, 1, 2]
    assert variant.popular_cards[5] == card_of(5)  # the filterable column beside them is no display field


def test_a_missing_bundle_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not found; run `make train promote`, or point to another"):
        read_bundle(tmp_path / "none")


def test_a_changed_popular_list_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    (tmp_path / "popular.json").write_text(json.dumps({"bundle": BUNDLE, "items": []}))
    with pytest.raises(BundleError, match="checksum differs"):
        read_bundle(tmp_path)


def test_a_popular_list_that_is_gone_or_has_another_shape_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    odd = json.dumps({"bundle": BUNDLE, "items": [{"item_id": 2**63, "score": 1}]}).encode()
    (tmp_path / "popular.json").write_bytes(odd)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["checksums"]["popular.json"] = hashlib.sha256(odd).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"not a popular list: items.0.item_id: .*train again"):
        read_bundle(tmp_path)
    (tmp_path / "popular.json").unlink()
    with pytest.raises(BundleError, match=r"popular.json: No such file.*restore the bundle"):
        read_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, "the bundle is of format 1, this version reads 2; train again"),
        ({"bundle": "Other!"}, "not a bundle manifest of format 2: bundle"),
        ({"items": None}, "not a bundle manifest of format 2: items"),
    ],
)
def test_a_manifest_of_another_shape_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        read_bundle(write_bundle(tmp_path, **changes))


def test_a_popular_list_of_another_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"belongs to bundle {BUNDLE}"):
        read_bundle(write_bundle(tmp_path, bundle="other-2"))


def test_a_link_is_followed_once_so_that_both_files_are_of_one_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a")
    (tmp_path / "current").symlink_to("a")
    assert read_bundle(tmp_path / "current")[0].bundle == BUNDLE
