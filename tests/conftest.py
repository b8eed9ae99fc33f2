"""What the tests of every role share. Loaded in each of their environments."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Timings are recorded, never asserted: on a busy machine an example may take long.
settings.register_profile("shortlist", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shortlist")

INHERITED = (
    "SHORTLIST_DATA_DIR",
    "SHORTLIST_REDIS_SERVER",
    "SHORTLIST_REDISEARCH_MODULE",
    "SHORTLIST_ACCEPT_SNAPSHOT",
)
"""Where data sets and servers stand, and whether a snapshot is written anew: meant for tests."""


@pytest.fixture(autouse=True, scope="session")
def _no_setting_of_the_shell_reaches_a_test() -> None:
    """A port or a setting that someone exported would change what is tested."""
    for name in list(os.environ):
        if name.startswith("SHORTLIST_") and name not in INHERITED:
            del os.environ[name]
    os.environ["SHORTLIST_MLFLOW"] = "off"  # a test that tracks says so
