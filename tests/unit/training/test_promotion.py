"""`current` moves by promotion and rollback alone, past a gate, and the log tells how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contract.bundle import BundleError
from contract.bundles import CURRENT, LATEST
from tests.unit.training.test_bundle import facts
from training.export.write import linked, point, seal, staged, write_json
from training.promotion import listing, promote, read_log, rollback, served

MARGIN = 0.03


def write(
    bundles: Path, name: str, ndcg: float | None = 0.1, *, dataset: str = "toy", test: str | None = "a"
) -> str:
    """Writes a bundle of that quality, as the last one trained."""
    rows: dict[str, Any] = {} if ndcg is None else {"end_to_end": {"both": {"ndcg@10": ndcg}}}
    metrics = {"served": "both", "sections": rows, "test": {} if test is None else {"fingerprint": test}}
    with staged(bundles, name) as folder:
        (folder / "x.onnx").write_text("model")
        write_json(folder / "metrics.json", metrics)
        seal(folder, facts(name) | {"dataset": dataset})
    point(bundles, name, LATEST)
    return name


def test_the_first_of_a_data_set_has_no_rival_and_the_last_trained_is_promoted(tmp_path: Path) -> None:
    write(tmp_path, "toy-1")
    move = promote(tmp_path, None, MARGIN)
    assert move is not None
    assert (move.bundle, move.former, move.forced) == ("toy-1", None, False)
    assert linked(tmp_path, CURRENT) == "toy-1"
    assert promote(tmp_path, None, MARGIN) is None, "it is current already"
    assert read_log(tmp_path) == [move]
    write(tmp_path, "other-1", 0.001, dataset="other")
    assert linked(tmp_path, CURRENT) == "toy-1", "training does not promote"
    promote(tmp_path, None, MARGIN)
    assert linked(tmp_path, CURRENT) == "other-1"


@pytest.mark.parametrize(("ndcg", "passes"), [(0.2, True), (0.097, True), (0.0969, False)])
def test_a_bundle_may_lose_the_margin_and_no_more(tmp_path: Path, ndcg: float, passes: bool) -> None:
    promote(tmp_path, write(tmp_path, "toy-1", 0.1), MARGIN)
    write(tmp_path, "toy-2", ndcg)
    if passes:
        promote(tmp_path, "toy-2", MARGIN)
    else:
        with pytest.raises(BundleError, match=r"toy-1 has 0\.1000, the least allowed is 0\.0970.*FORCE=1"):
            promote(tmp_path, "toy-2", MARGIN)
    assert linked(tmp_path, CURRENT) == ("toy-2" if passes else "toy-1")
    assert len(read_log(tmp_path)) == 1 + passes


@pytest.mark.parametrize(("former", "new"), [("a", "b"), (None, "a"), (None, None)])
def test_another_test_part_cannot_be_compared_and_needs_force(
    tmp_path: Path, former: str | None, new: str | None
) -> None:
    promote(tmp_path, write(tmp_path, "toy-1", test=former), MARGIN)
    write(tmp_path, "toy-2", 0.9, test=new)
    with pytest.raises(BundleError, match=r"cannot be compared with toy-1.*another test part.*FORCE=1"):
        promote(tmp_path, "toy-2", MARGIN)
    move = promote(tmp_path, "toy-2", MARGIN, force=True)
    assert move is not None
    assert move.forced
    assert "promote, forced  toy-1 -> toy-2" in "\n".join(listing(tmp_path))


def test_force_is_not_noted_where_the_gate_had_no_objection(tmp_path: Path) -> None:
    move = promote(tmp_path, write(tmp_path, "toy-1"), MARGIN, force=True)
    assert move is not None
    assert not move.forced


def test_the_rival_is_the_last_of_the_same_data_set(tmp_path: Path) -> None:
    promote(tmp_path, write(tmp_path, "toy-1", 0.5), MARGIN)
    promote(tmp_path, write(tmp_path, "other-1", 0.1, dataset="other"), MARGIN)
    write(tmp_path, "toy-2", 0.1)
    with pytest.raises(BundleError, match=r"toy-1 has 0\.5000"):
        promote(tmp_path, "toy-2", MARGIN)
    (tmp_path / "toy-1" / "manifest.json").write_text("{}")
    assert promote(tmp_path, "toy-2", MARGIN), "what cannot be read cannot be served either"


def test_where_nobody_could_be_asked_there_is_nothing_to_lose(tmp_path: Path) -> None:
    for name in ("toy-1", "toy-2"):
        promote(tmp_path, write(tmp_path, name, None), MARGIN)
    assert linked(tmp_path, CURRENT) == "toy-2"


def test_a_rollback_goes_one_back_each_time_and_stays_until_somebody_promotes(tmp_path: Path) -> None:
    for name in ("toy-1", "toy-2", "toy-1", "toy-3"):
        promote(tmp_path, name if (tmp_path / name).exists() else write(tmp_path, name), MARGIN)
    assert served(tmp_path) == ["toy-1", "toy-2", "toy-1", "toy-3"]
    for expected in ("toy-1", "toy-2", "toy-1"):
        assert rollback(tmp_path).bundle == expected == linked(tmp_path, CURRENT)
    with pytest.raises(BundleError, match="nothing was promoted before"):
        rollback(tmp_path)
    write(tmp_path, "toy-4")
    assert linked(tmp_path, CURRENT) == "toy-1"
    promote(tmp_path, None, MARGIN)
    assert served(tmp_path) == ["toy-1", "toy-4"]
    assert rollback(tmp_path).bundle == "toy-1"


def test_a_current_that_no_log_knows_is_what_a_rollback_goes_to(tmp_path: Path) -> None:
    point(tmp_path, write(tmp_path, "toy-1"), CURRENT)
    promote(tmp_path, write(tmp_path, "toy-2"), MARGIN)
    assert rollback(tmp_path).bundle == "toy-1"


def test_a_damaged_bundle_is_neither_promoted_nor_rolled_back_to(tmp_path: Path) -> None:
    promote(tmp_path, write(tmp_path, "toy-1"), MARGIN)
    promote(tmp_path, write(tmp_path, "toy-2"), MARGIN)
    (tmp_path / "toy-1" / "x.onnx").write_text("changed")
    with pytest.raises(BundleError, match="checksum differs"):
        rollback(tmp_path)
    with pytest.raises(BundleError, match="checksum differs"):
        promote(tmp_path, "toy-1", MARGIN, force=True)
    assert linked(tmp_path, CURRENT) == "toy-2"
    assert len(read_log(tmp_path)) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "no bundle was trained here; run `make train`"),
        ("../x", "BUNDLE=../x: is not the name of a bundle"),
        ("nowhere", "nowhere/manifest.json: not found; run `make train promote`"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, name: str | None, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        promote(tmp_path, name, MARGIN)


def test_a_link_is_not_the_name_of_a_bundle(tmp_path: Path) -> None:
    write(tmp_path, "toy-1")
    with pytest.raises(BundleError, match="is not the name of a bundle"):
        promote(tmp_path, LATEST, MARGIN)


def test_the_list_marks_what_is_current_and_what_cannot_be_read(tmp_path: Path) -> None:
    assert "no bundle; run `make train`" in listing(tmp_path)[0]
    promote(tmp_path, write(tmp_path, "toy-1"), MARGIN)
    write(tmp_path, "toy-2", None)
    write(tmp_path, "toy-3")
    (tmp_path / "toy-3" / "manifest.json").write_text("{}")
    first, second, third, log = listing(tmp_path)
    assert first.startswith("toy-1 ")
    assert first.endswith("ndcg@10 0.1000  current")
    assert "current" not in second
    assert "not a bundle manifest" in third
    assert "promote  none -> toy-1" in log


def test_a_log_that_is_none_is_named(tmp_path: Path) -> None:
    write(tmp_path, "toy-1")
    (tmp_path / "promotions.jsonl").write_text("{}\n")
    with pytest.raises(BundleError, match=r"promotions\.jsonl: not a log of promotions"):
        promote(tmp_path, None, MARGIN)
