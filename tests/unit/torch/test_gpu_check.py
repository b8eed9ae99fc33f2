"""The check of a GPU, its part that trains: on the CPU, where nothing may differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.gpu import towers
from tests.builders.forked import forked
from tests.builders.towers_task import towers_task


def test_it_trains_and_compares_users_and_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "STEPS", 6)
    encoded = towers._encoded
    compared: list[tuple[int, ...]] = []

    def off_for_the_last(*given: Any) -> Any:
        vectors, seconds = encoded(*given)
        compared.append(vectors.shape)
        return (vectors + 1e-3 if len(compared) == 4 else vectors), seconds

    monkeypatch.setattr(towers, "_encoded", off_for_the_last)
    towers_task().save(tmp_path / "task")
    result, shapes = forked(1, lambda ranks: (towers.checked(ranks, tmp_path / "task"), compared))[0]
    assert (result["device"], result["steps"]) == ("CPU", 6)
    assert result["greatest_difference"] == pytest.approx(1e-3, rel=1e-2), "of the items alone"
    assert shapes[0] == shapes[1] != shapes[2] == shapes[3]
    assert all(result[f"{name}_per_s"][on] > 0 for name in ("users", "items") for on in ("cpu", "device"))
