"""One small bundle for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.prepared import Prepared


@pytest.fixture(scope="session")
def bundle_var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("var")


@pytest.fixture(scope="session")
def small_bundle(bundle_var: Path) -> tuple[Prepared, Path]:
    from tests.builders import bundles

    return bundles.small_bundle(bundle_var)
