"""The Triton model repository: complete, movable, and whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc.model_config_pb2 as triton
from google.protobuf import text_format

from contract.bundle import BundleError
from contract.tensors import ANSWER, EXPLAIN_TENSORS, OPTIONAL_TENSORS, request_tensor
from ensemble.bundle import LoadedBundle
from ensemble.publish.export import export, main
from ensemble.settings import Provider
from tests.builders.triton import World, make_settings, make_world


@pytest.fixture
def models(world: World, tmp_path: Path) -> Path:
    return export(world.folder, tmp_path / "models", make_settings()).parent


def read_config(models: Path) -> triton.ModelConfig:
    return text_format.Parse((models / "tiny-1" / "config.pbtxt").read_text(), triton.ModelConfig())


def test_the_config_batches_and_takes_and_gives_what_the_contract_says(models: Path) -> None:
    config = read_config(models)
    assert config.backend == "python"
    assert config.max_batch_size == 32
    assert config.HasField("dynamic_batching")
    inputs = {i.name: list(i.dims) for i in config.input}
    promised = (request_tensor(["context_surface"]), *OPTIONAL_TENSORS)
    assert inputs == {t.name: [t.width] for t in promised}
    assert {i.name for i in config.input if i.optional} == {t.name for t in OPTIONAL_TENSORS}
    assert not any(i.allow_ragged_batch for i in config.input)
    assert {o.name: list(o.dims) for o in config.output} == {
        t.name: [t.width] for t in (ANSWER, *EXPLAIN_TENSORS)
    }
    assert config.parameters["bundle"].string_value == "tiny-1"


def test_it_holds_the_bundle_and_neither_a_pickle_nor_a_path_of_this_machine(
    models: Path, world: World
) -> None:
    files = {p.relative_to(models / "tiny-1").as_posix() for p in models.rglob("*") if p.is_file()}
    bundle = {f"1/bundle/{p.name}" for p in world.folder.iterdir()}
    assert files == {"config.pbtxt", "1/model.py", *bundle}
    for path in models.rglob("*"):
        if path.suffix in (".pbtxt", ".py", ".json", ".yaml"):
            assert str(models.parent) not in path.read_text()
    moved = models.parent / "elsewhere"
    models.rename(moved)
    assert LoadedBundle.open(moved / "tiny-1" / "1" / "bundle").manifest.bundle == "tiny-1"


def test_a_new_export_replaces_the_old_one(models: Path, world: World) -> None:
    (models / "tiny-1" / "1" / "stale.txt").write_text("old")
    export(world.folder, models, make_settings(max_batch_size=7))
    assert not (models / "tiny-1" / "1" / "stale.txt").exists()
    assert read_config(models).max_batch_size == 7
    assert [p.name for p in models.parent.iterdir()] == ["models"], "nothing temporary is left"


def test_a_broken_bundle_leaves_the_old_export_as_it_was(models: Path, world: World, tmp_path: Path) -> None:
    before = (models / "tiny-1" / "config.pbtxt").read_text()
    broken = tmp_path / "broken"
    shutil.copytree(world.folder, broken)
    np.save(broken / "item_vectors.npy", np.zeros(3))
    with pytest.raises(BundleError, match="checksum differs"):
        export(broken, models, make_settings())
    assert (models / "tiny-1" / "config.pbtxt").read_text() == before


def test_a_provider_that_is_not_there_stops_it_with_one_line(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        BundleError, match="SHORTLIST_PROVIDER=cuda: CUDAExecutionProvider is not available here"
    ):
        export(world.folder, tmp_path / "models", make_settings(provider=Provider.CUDA))
    monkeypatch.setenv("SHORTLIST_PROVIDER", "tensorrt")
    assert main(["--bundle", str(world.folder), "--output", str(tmp_path / "models")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "models").exists()


def test_a_missing_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path / "none"), "--output", str(tmp_path / "models")]) == 1
    error = capsys.readouterr().err
    assert "manifest.json: not found" in error
    assert len(error.splitlines()) == 1


def test_the_queue_can_be_bounded_and_a_request_may_say_how_long_it_waits(
    world: World, tmp_path: Path
) -> None:
    settings = make_settings(queue_size=7, queue_timeout_ms=900)
    config = read_config(export(world.folder, tmp_path / "models", settings).parent)
    policy = config.dynamic_batching.default_queue_policy
    assert policy.max_queue_size == 7
    assert policy.default_timeout_microseconds == 900_000
    assert policy.allow_timeout_override
    assert policy.timeout_action == policy.REJECT


def test_triton_bounds_its_queue_only_where_asked_to(models: Path) -> None:
    assert not read_config(models).dynamic_batching.HasField("default_queue_policy")


def test_a_manifest_is_read_whatever_the_locale(tmp_path: Path) -> None:
    """Triton's Python processes may run in one that knows ASCII alone."""
    folder = make_world(tmp_path / "bundle").folder
    facts = json.loads((folder / "manifest.json").read_text("utf-8"))
    content = facts | {"user_id_dtype": "string", "sample_user_ids": ["\u05d0"]}
    (folder / "manifest.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    code = "from pathlib import Path; from contract.bundle import read_manifest; import sys; "
    code += "print(ascii(read_manifest(Path(sys.argv[1])).sample_user_ids))"
    ascii_alone = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, folder], env=ascii_alone, capture_output=True, text=True
    )
    assert done.stdout.strip() == "('\\u05d0',)", done.stderr
