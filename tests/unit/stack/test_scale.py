"""The growth benchmark goes on where it was, and publishes what was measured, no more."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from bench.designs import GATEWAY, OURS
from bench.scale import billion, paper, run
from bench.scale.report import BEGIN, END, markdown, publish, read
from bench.scale.run import measure, sizes
from bench.scale.stand import ScaleError, Stand
from contract.marked import put_between

FACTS = {
    "machine": {"cpu": "a CPU", "cores": 2, "memory_gib": 24, "system": "Linux", "load": "0.1"},
    "commit": "0123456789abcdef+changes",
    "at": "2026-11-21T08:00:00+00:00",
}
SERIES = {"full_per_s": 123.4, "p50_ms": 5.0, "p95_ms": 7.0, "p99_ms": 9.5, "full": 10, "popular": 3}
SERVE = {
    OURS: {"1": SERIES},
    GATEWAY: {"1": SERIES, "16": SERIES | {"cpu_ms_per_answer": {"redis": 0.5}}},
    "memory_mib": {"redis": 100.0, "stubs": 60.0},
    "redis_whole_s": 1.0,
    "triton_first_full_answer_s": 10.0,
    "gateway_first_full_answer_s": 2.0,
}


def write(folder: Path, items: int, **phases: dict[str, Any]) -> None:
    (folder / str(items)).mkdir(parents=True)
    for name, figures in phases.items():
        (folder / str(items) / f"{name}.json").write_text(json.dumps(FACTS | figures))


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces what the phases do by noting that they ran; `load` fails the first time."""
    done: list[str] = []

    def note(name: str) -> Any:
        def phase(_: Stand) -> dict[str, Any]:
            done.append(name)
            if name == "load" and done.count("load") == 1:
                raise ScaleError("the machine went away")
            return {"seconds": 1.0}

        return phase

    monkeypatch.setattr(run, "PHASES", {name: note(name) for name in ("train", "load", "serve")})
    return done


def test_an_interrupted_run_goes_on_where_it_was(phases: list[str], tmp_path: Path) -> None:
    stand = Stand.of(1000, 1000, tmp_path / "1000")
    with pytest.raises(ScaleError):
        measure(stand, (), ("train", "load", "serve"))
    assert phases == ["train", "load"]
    measure(stand, (), ("train", "load", "serve"))
    assert phases == ["train", "load", "load", "serve"]
    measure(stand, ("serve",), ("train", "load", "serve"))
    assert phases[4:] == ["serve"]
    content = json.loads((tmp_path / "1000" / "train.json").read_text())
    assert content["items"] == 1000
    assert {"machine", "commit", "at", "seconds"} <= set(content)


def test_sizes_are_read_in_order_and_nonsense_is_refused() -> None:
    assert sizes("100_000,10000") == [10_000, 100_000]
    for nonsense in ("ten", "10", "10000;20000"):
        with pytest.raises(argparse.ArgumentTypeError):
            sizes(nonsense)


def test_the_page_shows_each_size_and_leaves_empty_what_was_not_measured(tmp_path: Path) -> None:
    write(tmp_path, 100_000, serve=SERVE)
    write(tmp_path, 10_000, serve=SERVE, restart={"answers_s": 0.2, "index_whole_s": 31.0})
    (tmp_path / "log").mkdir()
    assert [size["items"] for size in read(tmp_path)] == [10_000, 100_000]
    text = markdown(read(tmp_path))
    assert "| 1 client: p50 / p95 / p99 ms | 5 / 7 / 9.5 | 5 / 7 / 9.5 |" in text
    assert "| 1 client: other than full | 3 popular | 3 popular |" in text
    assert "| Redis: every item is indexed again | 31 |  |" in text
    assert "| all, bytes per item and its user | 16,777 | 1,678 |" in text
    assert "| all three, one after the other | 13 | 13 |" in text
    assert "`0123456789+changes`" in text
    assert "EF_RUNTIME" not in text, "no row without a figure"


def test_publishing_replaces_the_part_between_the_marks_alone(tmp_path: Path) -> None:
    write(tmp_path / "figures", 10_000, serve=SERVE)
    page, picture = tmp_path / "growth.md", tmp_path / "images" / "growth.png"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    publish(tmp_path / "figures", page, picture)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert picture.stat().st_size > 1000
    page.write_text("no marks")
    with pytest.raises(ValueError, match=r"the lines .* are missing"):
        publish(tmp_path / "figures", page, picture)


@pytest.mark.parametrize(
    ("of", "tables"),
    [(paper.PAGE, paper.markdown(paper.Measured(), paper.Assumed())), (billion.PAGE, billion.markdown())],
    ids=["growth", "scale"],
)
def test_the_page_holds_what_the_figures_on_paper_come_to(of: Path, tables: str, tmp_path: Path) -> None:
    page = tmp_path / of.name
    page.write_text(of.read_text())
    put_between(page, paper.MARKS, tables)
    assert page.read_text() == of.read_text(), "run python -m bench.scale.paper, and bench.scale.billion"


def test_more_to_answer_and_slower_searches_cost_more_on_paper() -> None:
    def cores(measured: paper.Measured, assumed: paper.Assumed) -> list[int]:
        return [part.cores for part in paper.steps(measured, assumed)[1]]

    now = cores(paper.Measured(), paper.Assumed())
    slower = cores(paper.Measured(search_ms=2 * paper.Measured().search_ms), paper.Assumed())
    assert slower[:2] == now[:2]
    assert slower[2:] == pytest.approx([2 * now[2], 2 * now[3]], abs=2), "each is rounded up"
    more = cores(paper.Measured(), paper.Assumed(per_s=100_000))
    assert all(then > before for then, before in zip(more, now, strict=True))


def test_a_shard_asked_for_all_misses_nothing() -> None:
    assert paper.missed(k=100, shards=8, wanted=100) == 0
    assert paper.missed(k=2, shards=2, wanted=1) == pytest.approx(0.5)
