"""A Triton Python model: repeats the user's tensors once per candidate, for the ranker.

It adds the ranker's inputs that the published chain has not: the user-item features, made by our function
from a table in the process, and the context as null.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from contract import affinity, names
from contract.dataset import Dataset
from contract.encoders import NULL_CODE, Encoders


class TritonPythonModel:
    """Takes one user's tensors and K candidates' tensors, gives K rows of every input of the ranker."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the compared columns, the scales and the data set's description beside this file."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        parameters = json.loads(config["parameters"]["told"]["string_value"])
        self.of_items, self.of_users = parameters["of_items"], parameters["of_users"]
        self.context = {o["name"]: o["dims"][1] for o in config["output"] if o["name"] == "context"}
        self.dataset = Dataset.load(folder / "dataset.yaml")
        self.made = affinity.user_item_feature_names(self.dataset)
        encoders = Encoders.load(folder / "encoders.npz")
        self.scales = {name: encoders.scales[name] for name in self.made}
        with np.load(folder / "compared.npz") as file:
            self.compared = dict(file)
        self.item_ids = self.compared[names.ITEM_ID][:-1]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Unrolls one request after the other."""
        return [self._unroll(request) for request in requests]

    def _unroll(self, request: Any) -> Any:
        def read(name: str) -> Any:
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

        item_ids = read("item_id_raw")
        tensors = {name: read(name) for name in self.of_items}
        tensors |= {name: np.repeat(read(name), len(item_ids), axis=0) for name in self.of_users}
        recents = {u: self._compared(read(f"{u}_raw")) for u in affinity.LISTS}
        made = affinity.user_item_features(self.dataset, recents, self._compared(item_ids[None]))
        tensors["user_item"] = np.stack([self.scales[n].encode(made[n][0]) for n in self.made], axis=1)
        tensors |= {n: np.full((len(item_ids), w), NULL_CODE, np.int64) for n, w in self.context.items()}
        tensors["item_id_raw"] = item_ids
        return pb_utils.InferenceResponse([pb_utils.Tensor(n, array) for n, array in tensors.items()])

    def _compared(self, item_ids: Any) -> dict[str, Any]:
        at = np.minimum(np.searchsorted(self.item_ids, item_ids), len(self.item_ids) - 1)
        rows = np.where(self.item_ids[at] == item_ids, at, len(self.item_ids))
        return {name: table[rows] for name, table in self.compared.items()} | {names.ITEM_ID: item_ids}
