"""A bundle is written whole or not at all, and never changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contract.bundle import MANIFEST_FILE, NEAREST, BundleError, Manifest, read_manifest
from contract.bundles import CURRENT
from training.export.write import bundle_id, find_bundle, linked, point, seal, staged

SPEC = {"file": "x.onnx", "categorical": ["user_id"], "numeric": [], "lists": {}, "output": "x"}

INPUTS = {"categorical": ["user_id"], "numeric": [], "lists": {}}
RANKER = {"file": "x.onnx", "output": "x", "user": INPUTS, "candidate": INPUTS}


def facts(name: str) -> dict[str, Any]:
    return {
        "bundle": name,
        "dataset": "toy",
        "created_at": "2026-01-01T00:00:00+00:00",
        "git_commit": "unknown",
        "seed": 0,
        "versions": {},
        "items": 1,
        "vector_width": 2,
        "score_range": (-1.0, 1.0),
        "index": {"kind": "FLAT"},
        "user_tower": SPEC,
        "item_tower": SPEC,
        "ranker": RANKER,
        "context": (),
        "display": (),
        "display_name": None,
        "filters": {},
        "sample_user_ids": (1,),
    }


def write(bundles: Path, name: str, text: str = "model") -> Path:
    with staged(bundles, name) as folder:
        (folder / "x.onnx").write_text(text)
        seal(folder, facts(name))
    return bundles / name


def test_a_sealed_bundle_lists_the_checksum_of_every_other_file(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "toy-1"))
    assert list(manifest.checksums) == ["x.onnx"]


def test_nothing_remains_of_a_bundle_that_failed(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path, "toy-1") as folder:
            (folder / "x.onnx").write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_manifest_does_not_become_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not sealed"), staged(tmp_path, "toy-1") as folder:
        (folder / "x.onnx").write_text("model")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_never_written_over(tmp_path: Path) -> None:
    write(tmp_path, "toy-1")
    with pytest.raises(BundleError, match="never changed"):
        write(tmp_path, "toy-1", "other")
    assert (tmp_path / "toy-1" / "x.onnx").read_text() == "model"


def test_a_link_points_to_one_bundle_and_moves_in_one_step(tmp_path: Path) -> None:
    assert linked(tmp_path, CURRENT) is None
    for name in ("toy-1", "toy-2"):
        write(tmp_path, name)
        point(tmp_path, name, CURRENT)
        assert linked(tmp_path, CURRENT) == name
        assert (tmp_path / "current").resolve() == (tmp_path / name).resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "toy-1", "toy-2"]


def test_no_link_points_to_a_changed_bundle(tmp_path: Path) -> None:
    point(tmp_path, write(tmp_path, "toy-1").name, CURRENT)
    (write(tmp_path, "toy-2") / "x.onnx").write_text("changed")
    with pytest.raises(BundleError, match="checksum differs"):
        point(tmp_path, "toy-2", CURRENT)
    assert (tmp_path / "current").resolve() == (tmp_path / "toy-1").resolve()


def test_only_a_whole_bundle_of_the_same_fingerprint_is_found(tmp_path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    name = bundle_id("toy", "abcdef0123456789", at)
    assert name == "toy-20260102-030405-abcdef01"
    assert find_bundle(tmp_path, "toy", "abcdef0123456789") is None
    folder = write(tmp_path, name)
    assert find_bundle(tmp_path, "toy", "abcdef0123456789") == name
    assert find_bundle(tmp_path, "toy", "0000000023456789") is None
    (folder / "x.onnx").unlink()
    assert find_bundle(tmp_path, "toy", "abcdef0123456789") is None


def test_a_bundle_of_another_format_says_train_again(tmp_path: Path) -> None:
    path = write(tmp_path, "toy") / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(BundleError, match="of format 1, this version reads 2; train again"):
        read_manifest(path.parent)


CHAIN = {
    "name": "chain",
    "kind": "item_to_item",
    "share": 0.3,
    "file": "chain.npz",
    "history": "user_recent_item_ids",
    "decay": 0.9,
}


def test_a_bundle_that_names_no_sources_has_its_vectors(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, "toy-1")).sources == (NEAREST,)


def test_a_sources_table_is_one_of_the_sealed_files(tmp_path: Path) -> None:
    changed = facts("toy-1") | {"sources": (NEAREST.model_dump() | {"share": 0.7}, CHAIN)}
    with staged(tmp_path, "toy-1") as folder:
        (folder / "x.onnx").write_text("model")
        (folder / "chain.npz").write_text("table")
        seal(folder, changed)
    manifest = read_manifest(tmp_path / "toy-1")
    assert [source.name for source in manifest.sources] == ["nearest", "chain"]
    path = tmp_path / "toy-1" / MANIFEST_FILE
    facts_read = json.loads(path.read_text())
    del facts_read["checksums"]["chain.npz"]
    path.write_text(json.dumps(facts_read))
    with pytest.raises(BundleError, match=r"chain\.npz: has no checksum"):
        read_manifest(tmp_path / "toy-1")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sources": ()}, "sources"),
        ({"sources": (CHAIN, CHAIN)}, "the same name"),
        ({"sources": (NEAREST.model_dump(), NEAREST.model_dump() | {"name": "again"})}, "same vectors"),
        ({"sources": (CHAIN | {"file": None},)}, "reads a file"),
        ({"sources": (CHAIN | {"kind": "popular"},)}, "reads a history"),
        ({"order": {"sources": {"chain": 1.0}}}, "weighs chain"),
        ({"order": {"sources": {"nearest": 1.0}}}, "weighs nearest"),
    ],
)
def test_sources_that_contradict_each_other_are_named(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Manifest.model_validate(facts("toy-1") | {"checksums": {}} | wrong)
