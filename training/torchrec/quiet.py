"""What the libraries say of themselves is of no use to who reads what training says."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Leaves it out, in this process, once they are loaded."""
    warnings.filterwarnings("ignore")
    for name in ("torchrec", "torch.fx", "torch.onnx", "root"):
        logging.getLogger(name).setLevel(logging.ERROR)
