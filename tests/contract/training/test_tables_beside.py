"""A trained bundle whose tables of ids lie beside its models is as good as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from contract.bundle import ENCODERS_FILE, MANIFEST_FILE, METRICS_FILE, Manifest, read_manifest, sha256
from contract.encoders import Encoders
from training.config import TrainingSettings
from training.data.prepared import Prepared
from training.export.tables import take_out
from training.export.towers import ExportError
from training.promotion import slate_quality
from training.rival import measure_again

COLUMNS = ("user_id", "item_id")


@pytest.fixture(scope="module")
def beside(small_bundle: tuple[Prepared, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small bundle, its tables taken out."""
    folder = tmp_path_factory.mktemp("beside") / "bundle"
    shutil.copytree(small_bundle[1], folder)
    manifest = read_manifest(folder)
    fields = Encoders.load(folder / ENCODERS_FILE).fields
    tower, ranker, tables = take_out(folder, COLUMNS, fields, manifest.user_tower, manifest.ranker)
    checksums = {file.name: sha256(file) for file in folder.iterdir() if file.name != MANIFEST_FILE}
    changed = {"user_tower": tower, "ranker": ranker, "tables": tables, "checksums": checksums}
    (folder / MANIFEST_FILE).write_text(manifest.model_copy(update=changed).model_dump_json())
    return folder


def test_the_models_are_smaller_by_their_tables(small_bundle: tuple[Prepared, Path], beside: Path) -> None:
    manifest = read_manifest(beside)
    assert [table.column for table in manifest.tables] == list(COLUMNS)
    for taker, file in (("user_tower", manifest.user_tower.file), ("ranker", manifest.ranker.file)):
        taken = sum(
            np.load(beside / table.file)[:, table.part(taker)].nbytes
            for table in manifest.tables
            if taker in table.parts
        )
        smaller = (small_bundle[1] / file).stat().st_size - (beside / file).stat().st_size
        assert 0 < smaller < taken  # what stands in its place takes some bytes


def test_it_is_as_good_as_before(small_bundle: tuple[Prepared, Path], beside: Path) -> None:
    metrics = json.loads((beside / METRICS_FILE).read_text())
    k = TrainingSettings().k
    before, after = (
        measure_again(folder, small_bundle[0], metrics["test"], k) for folder in (small_bundle[1], beside)
    )
    assert slate_quality(after) == pytest.approx(slate_quality(before), abs=1e-9)


def test_a_bundle_that_names_no_tables_reads_on(small_bundle: tuple[Prepared, Path]) -> None:
    facts = json.loads((small_bundle[1] / MANIFEST_FILE).read_text())
    assert facts.pop("tables") == []
    assert Manifest.model_validate(facts).tables == ()


def test_what_no_model_reads_is_refused_in_words(beside: Path) -> None:
    manifest, fields = read_manifest(beside), Encoders.load(beside / ENCODERS_FILE).fields
    with pytest.raises(ExportError, match="SHORTLIST_TABLES_BESIDE: no model reads user_id as a category"):
        take_out(beside, ["user_id"], fields, manifest.user_tower, manifest.ranker)
