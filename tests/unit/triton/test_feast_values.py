"""The model process reads what Feast wrote without loading Feast."""

from __future__ import annotations

import subprocess
import sys

from feast.protos.feast.types import Value_pb2

from ensemble.stores.feast_values import Value, ValueType


def test_the_messages_are_feasts_own() -> None:
    assert Value is Value_pb2.Value
    assert ValueType.INT64 == Value_pb2.ValueType.INT64
    written = Value_pb2.Value(int64_val=7).SerializeToString()
    assert Value.FromString(written).int64_val == 7


def test_the_model_starts_without_feast() -> None:
    program = "import sys, ensemble.triton.model, ensemble.run.recommender; print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
