"""Which bundle `python -m ensemble.publish.serve promote` serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contract.routing import Routing
from ensemble.publish import serve


@pytest.mark.parametrize(("given", "served"), [((), "passed"), (("--bundle", "other"), "other")])
def test_it_is_the_current_one_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], served: str
) -> None:
    promoted = []

    class Server:
        def __init__(self, *_: Any) -> None:
            pass

        def promote(self, bundle: str, why: str) -> Routing:
            promoted.append((bundle, why))
            return Routing(champion=bundle)

    bundles = tmp_path / "bundles"
    (bundles / "passed").mkdir(parents=True)
    (bundles / "current").symlink_to("passed")
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    monkeypatch.setattr(serve, "BundleServer", Server)
    assert serve.main(["promote", *given]) == 0
    assert promoted == [(served, "asked for")]
