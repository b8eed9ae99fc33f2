"""The record of a training: what it was given and measured, however it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training.record import (
    FOLDER,
    TrainingFacts,
    TrainingState,
    is_at_work,
    read_facts,
    read_metrics,
    read_tables,
    recorded,
    trainings,
)

FACTS = TrainingFacts(
    name="toy-1",
    kind="train",
    dataset="toy",
    data_version="ab",
    parameters={"seed": "0"},
    began="2026-01-01T00:00:00+00:00",
)


def test_what_was_told_is_read_again(tmp_path: Path) -> None:
    with recorded(tmp_path, FACTS) as record:
        record.metric("loss", 0.5, 10)
        record.metric("loss", float("nan"), 20)
        record.table("evaluation", [{"model": "two-tower", "auc": 0.7}])
        record.tell(bundle="toy-1")
    (folder,) = trainings(tmp_path)
    facts = read_facts(folder)
    assert (facts.state, facts.bundle, facts.parameters) == (TrainingState.FINISHED, "toy-1", {"seed": "0"})
    assert facts.ended is not None
    assert [(one.name, one.value, one.step) for one in read_metrics(folder)] == [("loss", 0.5, 10)]
    assert read_tables(folder) == {"evaluation": [{"model": "two-tower", "auc": 0.7}]}


def test_a_failure_is_told_in_one_line_and_goes_on(tmp_path: Path) -> None:
    def fail() -> None:
        with recorded(tmp_path, FACTS) as record:
            record.metric("loss", 0.5, 10)
            raise ValueError("no such\n  label")

    with pytest.raises(ValueError, match="no such"):
        fail()
    (folder,) = trainings(tmp_path)
    facts = read_facts(folder)
    assert (facts.state, facts.why) == (TrainingState.FAILED, "ValueError: no such label")
    assert len(read_metrics(folder)) == 1


def test_a_training_that_is_killed_is_known_to_be_so_and_begins_anew(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from training.record import *\n"
        "with recorded(Path(sys.argv[1]), TrainingFacts.model_validate_json(sys.argv[2])) as record:\n"
        "    record.metric('loss', 1.0, 1); print('at work', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), FACTS.model_dump_json()]
    folder = tmp_path / FOLDER / FACTS.name
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        assert (is_at_work(folder), read_facts(folder).state) == (True, TrainingState.RUNNING)
        with pytest.raises(BlockingIOError), recorded(tmp_path, FACTS):
            pass
        process.send_signal(signal.SIGKILL)
    assert (is_at_work(folder), read_facts(folder).state) == (False, TrainingState.KILLED)
    with recorded(tmp_path, FACTS):
        assert read_metrics(folder) == []
    assert read_facts(folder).state is TrainingState.FINISHED


def test_a_trial_ends_with_its_search(tmp_path: Path) -> None:
    trial = "import sys, time; from pathlib import Path; from training.record import end_with\n"
    trial += "end_with(Path(sys.argv[1])); time.sleep(60)\n"
    with recorded(tmp_path, FACTS) as record:
        process = subprocess.Popen([sys.executable, "-c", trial, str(record.folder)])
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
    assert process.wait(30) == 1


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    with recorded(tmp_path, FACTS) as record:
        record.metric("loss", 0.5, 10)
    with (record.folder / "metrics.jsonl").open("a") as file:
        file.write('{"name": "lo')
    assert len(read_metrics(record.folder)) == 1


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    with recorded(tmp_path, FACTS) as record:
        pass
    (record.folder / "facts.json").write_text('{"name": 1}')
    with pytest.raises(
        ValueError, match=r"facts\.json: is no record of a training; delete its folder: name: "
    ):
        read_facts(record.folder)
