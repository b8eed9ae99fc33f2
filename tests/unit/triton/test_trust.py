"""What serving believes of a bundle: nothing that differs from its manifest, and no pickle whatever."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import yaml
from onnx.external_data_helper import convert_model_to_external_data

from contract import bundle as files
from contract.bundle import BundleError, sha256
from contract.dataset import DATASET_FILE
from contract.encoders import Encoders
from ensemble.bundle import LoadedBundle
from tests.builders.pickles import MESSAGE, watched
from tests.builders.triton import World

KINDS = (
    *(DATASET_FILE, files.ENCODERS_FILE, files.ITEM_IDS_FILE, files.ITEM_VECTORS_FILE),
    *(files.ITEM_TABLE_FILE, files.POPULAR_FILE),
    *(files.USER_TOWER_FILE, files.ITEM_TOWER_FILE, files.RANKER_FILE),
)


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    """A copy of the bundle, to do harm to."""
    return copytree(world.folder, tmp_path / "bundle")


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every loader fail the test."""

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("something was loaded before the bundle was verified")

    monkeypatch.setattr(np, "load", loaded)
    monkeypatch.setattr(yaml, "safe_load", loaded)
    monkeypatch.setattr(Encoders, "load", loaded)
    monkeypatch.setattr(ort, "InferenceSession", loaded)


def change_manifest(folder: Path, **changes: Any) -> None:
    path = folder / files.MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def checksums(folder: Path) -> dict[str, str]:
    content: dict[str, str] = json.loads((folder / files.MANIFEST_FILE).read_text())["checksums"]
    return content


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("harm", ["a bit", "cut", "gone"])
def test_a_damaged_file_of_any_kind_is_named_before_anything_is_loaded(
    folder: Path, name: str, harm: str
) -> None:
    file = folder / name
    data = bytearray(file.read_bytes())
    if harm == "gone":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(data[:-1])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(BundleError, match="missing" if harm == "gone" else "checksum differs") as error:
        LoadedBundle.open(folder)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def _link(folder: Path) -> None:
    outside = folder.parent / "ranker.onnx"
    (folder / files.RANKER_FILE).rename(outside)
    (folder / files.RANKER_FILE).symlink_to(outside)


def _beside(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"\0")


def _subfolder(folder: Path) -> None:
    (folder / "more").mkdir()


def _outside(folder: Path) -> None:
    (folder.parent / "outside.onnx").write_bytes(b"model")
    change_manifest(
        folder, checksums=checksums(folder) | {"../outside.onnx": sha256(folder.parent / "outside.onnx")}
    )


def _absolute(folder: Path) -> None:
    change_manifest(folder, checksums=checksums(folder) | {"/etc/hostname": "0" * 64})


def _unsealed_model(folder: Path) -> None:
    (folder.parent / "evil.onnx").write_bytes(b"model")
    content = json.loads((folder / files.MANIFEST_FILE).read_text())
    change_manifest(folder, ranker=content["ranker"] | {"file": "../evil.onnx"})


def _no_checksum(folder: Path) -> None:
    change_manifest(
        folder, checksums={k: v for k, v in checksums(folder).items() if k != files.ENCODERS_FILE}
    )


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_link, "ranker.onnx: is a link"),
        (_beside, "weights.bin: is not in the manifest"),
        (_subfolder, "more: is not in the manifest"),
        (_outside, "checksums.../outside.onnx"),
        (_absolute, "checksums./etc/hostname"),
        (_unsealed_model, "evil.onnx: has no checksum"),
        (_no_checksum, "encoders.npz: is not in the manifest"),
    ],
)
def test_whatever_the_manifest_does_not_answer_for_is_named_before_anything_is_loaded(
    folder: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(folder)
    with pytest.raises(BundleError) as error:
        LoadedBundle.open(folder)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_link_to_the_bundles_folder_is_how_one_is_chosen(folder: Path) -> None:
    current = folder.parent / "current"
    current.symlink_to(folder)
    assert LoadedBundle.open(current).manifest.bundle == LoadedBundle.open(folder).manifest.bundle


def test_a_models_weights_in_a_file_beside_it_are_refused(folder: Path) -> None:
    path = folder / files.RANKER_FILE
    model = onnx.load(str(path))
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, str(path))
    assert (folder / "weights.bin").is_file()
    change_manifest(folder, checksums=checksums(folder) | {path.name: sha256(path)})
    with pytest.raises(BundleError, match=r"weights\.bin: is not in the manifest"):
        LoadedBundle.open(folder)
    (folder / "weights.bin").rename(folder.parent / "weights.bin")
    bundle = LoadedBundle.open(folder)
    with pytest.raises(BundleError, match="cannot load it"):
        bundle.ranker.open()


def test_an_array_that_is_a_pickle_is_refused_even_with_the_right_checksum(folder: Path) -> None:
    for name in (files.ITEM_IDS_FILE, files.ENCODERS_FILE):
        harmed = copytree(folder, folder.parent / name)
        path = harmed / name
        evil = np.array([Unpickled()], dtype=object)
        with path.open("wb") as file:
            np.save(file, evil) if path.suffix == ".npy" else np.savez(file, header=evil)
        change_manifest(harmed, checksums=checksums(harmed) | {name: sha256(path)})
        with pytest.raises(ValueError, match="allow_pickle=False"):
            _ = LoadedBundle.open(harmed).item_ids
    assert not Unpickled.happened


class Unpickled:
    """Leaves a trace when a pickle of it is read."""

    happened = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Unpickled, "happened", True))


IMPORTS = """
import google.protobuf
from ensemble.publish import export
from ensemble.triton import model
from tests.builders.triton import make_recommender, make_request, make_world, slate
"""
SERVING = """
recommender = make_recommender(make_world(folder))
recommender.warm_up()
(answer,) = recommender.answer([make_request()])
print(len(slate(answer)), "items")
"""


@pytest.mark.parametrize("state", ["sound", "harmed"])
def test_no_pickle_is_read_from_the_first_import_to_the_answer(tmp_path: Path, state: str) -> None:
    done = watched(IMPORTS, SERVING, tmp_path / "bundle", is_harmed=state == "harmed")
    if state == "sound":
        assert (done.returncode, done.stdout) == (0, "5 items\n"), done.stderr
    else:
        assert done.returncode == 1
        assert MESSAGE in done.stderr
