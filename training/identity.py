"""What a training is made of: two of the same are the same training."""

from __future__ import annotations

import hashlib
from pathlib import Path

from contract.bundle import sha256
from training.config import TrainingSettings
from training.data.prepared import FILES, Prepared, dataset_yaml, read_stamp

CODE = Path(__file__).parent.parent
ELSEWHERE = {"data", "data_dir", "var_dir", "max_seen", "promotion_margin", "synthetic"}
"""Settings that a trained model does not follow from, but by the prepared data."""


def fingerprint(prepared: Prepared, settings: TrainingSettings) -> str:
    """A hash of what a bundle is made of: the prepared data, the settings of training, and this code."""
    digest = hashlib.sha256()
    chosen = settings.model_dump_json(exclude=ELSEWHERE)
    for text in (dataset_yaml(prepared.dataset), repr(sorted(read_stamp(prepared.folder).items())), chosen):
        digest.update(text.encode())
    for file in sorted((*CODE.glob("training/**/*.py"), *CODE.glob("contract/*.py"))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def data_version(prepared: Prepared) -> str:
    """A hash of the prepared tables and of how they are read and divided, hexadecimal."""
    digest = hashlib.sha256(dataset_yaml(prepared.dataset).encode())
    for name in FILES.values():
        digest.update(sha256(prepared.folder / name).encode())
    return digest.hexdigest()
