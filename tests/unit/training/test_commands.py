"""The training commands: wrong values stop with one line, nothing is half done."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from contract.bundle import BundleError
from contract.marked import marks
from feature_repo.__main__ import main as materialize
from tests.builders.datasets import own_tables, write_own
from tests.builders.full_disk import files_up_to
from tests.unit.training.test_promotion import write as write_bundle
from training.__main__ import main
from training.config import QualityLevel, TrainingSettings
from training.evaluation.tables import MARKS, markdown, replace_block
from training.export.write import write_json
from training.record import read_facts, read_metrics, trainings
from training.shards.layout import HEADER_FILE, ShardsHeader

METRICS = {
    "bundle": "toy-1",
    "dataset": "toy",
    "quality": "full",
    "seeds": [0, 1],
    "test": {"rows": 1234, "users": 10, "relevant": 20},
    "sections": {
        "retrieval": {
            "two-tower": {"recall@100": 0.5, "recall@100_interval": [0.4, 0.6], "recall@100_seeds": 0.01},
            "TopPop": {"recall@100": 0.25, "ndcg@10": 0.125},
        }
    },
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SHORTLIST_SEED", "many", "SHORTLIST_SEED=many: "),
        ("SHORTLIST_QUALITY", "best", "SHORTLIST_QUALITY=best: "),
        ("SHORTLIST_TWO_TOWER__WIDTH", "0", "SHORTLIST_TWO_TOWER__WIDTH=0: "),
        ("SHORTLIST_DLRM__DROPOUT", "-1", "SHORTLIST_DLRM__DROPOUT=-1: "),
    ],
)
def test_a_wrong_setting_stops_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stopped:
        main(["prepare"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", [["train"], ["retrain"], ["trial"], ["compare"]])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"WORKERS": "2"},
            "WORKERS=2: merlin trains in one process; set SHORTLIST_TRAINER=torchrec",
        ),
        ({"TRAINER": "torchrec", "RETRIEVAL": "mf_bpr"}, "trains two_tower alone, not mf_bpr; leave"),
        ({"TRAINER": "torchrec", "WORKERS": "3"}, "BATCH_SIZE=1024 does not divide among 3 workers; take"),
        ({"TORCHREC__SHARDS": "shards"}, "/shards: merlin reads no shards; set SHORTLIST_TRAINER=torchrec"),
        ({"TRAINER": "torchrec", "TORCHREC__SHARDS": "nowhere"}, "/nowhere: holds no shards; write them"),
        (
            {"TRAINER": "torchrec", "TORCHREC__SHARDS": "shards", "WORKERS": "8"},
            "/shards: 8 ranks do not fit shards of 4 lanes: take 1, 2, 4, or write them with",
        ),
        ({"TRAINER": "torchrec", "TORCHREC__SHARDS": "damaged"}, "is damaged, or of another version"),
    ],
)
def test_settings_that_contradict_each_other_stop_before_data_are_prepared(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: list[str],
    settings: dict[str, str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    header = ShardsHeader(dataset="a", rows=8, users=2, span_days=1, lanes=4, catalogue=(), facts=())
    for name, text in (("shards", header.model_dump_json()), ("damaged", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / HEADER_FILE).write_text(text)
    monkeypatch.setenv("SHORTLIST_DATA", "synthetic")
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path / "var"))
    for name, value in settings.items():
        monkeypatch.setenv(f"SHORTLIST_{name}", value)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "var").exists()


def test_a_wrong_url_of_redis_stops_the_feature_repository_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHORTLIST_REDIS_URL", "here")
    with pytest.raises(SystemExit) as stopped:
        materialize(["materialize"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "SHORTLIST_REDIS_URL: must be redis://" in error
    assert error.count("\n") == 1


def test_a_data_set_that_does_not_exist_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path / "var"))
    assert main(["prepare", "--data", str(tmp_path / "nowhere")]) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "var").exists()


def test_a_disk_without_room_ends_preparing_with_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, var = write_own(tmp_path / "books", own_tables()), tmp_path / "var"
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(var))
    with files_up_to(1000):
        assert main(["prepare", "--data", str(folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"{var}: File too large; ")
    assert "set SHORTLIST_VAR_DIR" in error
    assert error.count("\n") == 1
    assert not [path for path in var.rglob("*") if path.is_file()]
    assert main(["prepare", "--data", str(folder)]) == 0
    prepared = {path: path.read_bytes() for path in var.rglob("*") if path.is_file()}
    with files_up_to(1000):
        assert main(["features", "--data", str(folder)]) == 1
    assert {path: path.read_bytes() for path in var.rglob("*") if path.is_file()} == prepared


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--data", "synthetic"], "or name a --protocol"),
        (["--protocol", "leave-last-out", "--bundle", "toy-1"], "--bundle=toy-1: was trained on the split"),
    ],
)
def test_what_does_not_go_together_in_evaluate_is_said(
    capsys: pytest.CaptureFixture[str], asked: list[str], said: str
) -> None:
    assert main(["evaluate", *asked]) == 1
    assert said in capsys.readouterr().err


def test_a_protocol_is_trained_for_once_and_shown_with_its_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    for size in ("USERS=60", "ITEMS=40", "DAYS=10", "INTERACTIONS=1500"):
        name, _, value = size.partition("=")
        monkeypatch.setenv(f"SHORTLIST_SYNTHETIC__{name}", value)
    asked = ["evaluate", "--protocol", "leave-last-out", "--data", "synthetic", "--quality", "tiny"]
    assert main(asked) == 0
    first = capsys.readouterr().out
    assert "Protocol leave-last-out on synthetic, quality tiny" in first
    assert "the last new positive is the test" in first
    assert "| recency EASE |" in first
    assert "**Ranking" not in first
    assert main(asked) == 0
    again = capsys.readouterr().out
    assert "data, settings and code unchanged, reused" in again
    assert again[again.index("Protocol") :] == first[first.index("Protocol") :]


def test_a_trial_records_what_validation_says_and_looks_at_no_test_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    for size in ("USERS=60", "ITEMS=40", "DAYS=10", "INTERACTIONS=1500"):
        name, _, value = size.partition("=")
        monkeypatch.setenv(f"SHORTLIST_SYNTHETIC__{name}", value)
    monkeypatch.setenv("SHORTLIST_QUALITY", "tiny")
    asked = ["trial", "--data", "synthetic", "--part", "ranking"]
    assert main([*asked, "--check"]) == 0
    dataset, data_version, made_of = capsys.readouterr().out.splitlines()[-1].split()
    assert (dataset, len(data_version), len(made_of)) == ("synthetic", 64, 64)
    assert main([*asked, "--part-of", "nobody"]) == 1
    assert "no search of this name is at work" in capsys.readouterr().err
    assert trainings(tmp_path) == []
    assert main([*asked, "--name", "toy-trial"]) == 0
    (folder,) = trainings(tmp_path)
    facts = read_facts(folder)
    assert (facts.name, facts.kind, facts.state, facts.bundle) == ("toy-trial", "trial", "finished", None)
    assert facts.data_version == data_version
    named = {one.name for one in read_metrics(folder)}
    assert {"retrieval/best", "ranking/best"} <= named
    assert not [name for name in named if name.startswith("test/")]
    assert not (tmp_path / "bundles").exists()


def test_evaluate_without_a_bundle_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    assert main(["evaluate"]) == 1
    assert "make train" in capsys.readouterr().err


def test_promotion_and_rollback_say_what_happened_and_what_is_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    bundles = tmp_path / "bundles"

    def said(*command: str) -> str:
        code = main(command)
        out, err = capsys.readouterr()
        return f"{code} {out}{err}"

    assert "no bundle was trained here; run `make train`" in said("promote")
    write_bundle(bundles, "toy-1", 0.1)
    assert "0   " in (first := said("promote"))
    assert "none -> toy-1" in first
    assert "is toy-1 already" in said("promote")
    write_bundle(bundles, "toy-2", 0.05)
    assert said("promote", "--bundle", "toy-2").startswith("1 ")
    assert said("promote", "--force", "--check") == "0   toy-2\n"
    assert "promote, forced  toy-1 -> toy-2" in said("promote", "--force")
    assert said("rollback", "--check") == "0   toy-1\n"
    rolled = said("rollback")
    assert "rollback  toy-2 -> toy-1" in rolled
    assert "stays current until another one is promoted" in rolled
    assert "ndcg@10 0.1000  current" in said("bundles")
    monkeypatch.setenv("SHORTLIST_PROMOTION_MARGIN", "0.5")
    assert said("promote").startswith("0 ")


def test_training_anew_what_is_not_served_is_refused_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    for size in ("USERS=60", "ITEMS=40", "DAYS=10", "INTERACTIONS=1500"):
        name, _, value = size.partition("=")
        monkeypatch.setenv(f"SHORTLIST_SYNTHETIC__{name}", value)
    write_bundle(tmp_path / "bundles", "toy-1", 0.1)
    assert main(["promote"]) == 0
    capsys.readouterr()
    assert main(["retrain", "--data", "synthetic"]) == 1
    assert "DATA=synthetic: is synthetic, and" in (said := capsys.readouterr().err)
    assert "current is of toy; name that one's data" in said


def test_every_setting_says_what_it_is() -> None:
    def descriptions(model: type) -> list[str | None]:
        return [field.description for field in model.model_fields.values()]  # type: ignore[attr-defined]

    settings = TrainingSettings()
    nested = [name for name, value in settings if isinstance(value, BaseModel)]
    assert {"synthetic", "two_tower", "dlrm"} < set(nested)
    own = [f.description for name, f in TrainingSettings.model_fields.items() if name not in nested]
    for part in nested:
        own += descriptions(type(getattr(settings, part)))
    assert all(own)


def test_tiny_quality_shrinks_the_models_and_nothing_else() -> None:
    plain = TrainingSettings(quality=QualityLevel.DEFAULT)
    assert plain.at_quality() == plain
    tiny = plain.model_copy(update={"quality": QualityLevel.TINY}).at_quality()
    assert tiny.two_tower.width < plain.two_tower.width
    assert tiny.model_copy(update={"two_tower": plain.two_tower, "quality": plain.quality}) == plain


def test_a_table_shows_means_seeds_and_intervals(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, METRICS)
    lines = markdown(path.read_text()).splitlines()
    assert "Test: 1,234 rows, 10 users with 20 items to find." in lines[0]
    assert "| two-tower | 0.5000 ± 0.0100 [0.4000, 0.6000] |  |" in lines
    assert "| TopPop | 0.2500 | 0.1250 |" in lines


def test_a_table_is_written_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "quality.md"
    begin, end = marks(MARKS)
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    replace_block(page, "new\n")
    assert page.read_text() == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(BundleError, match="has no lines"):
        replace_block(page, "new\n")
