"""Opens a bundle for serving: verified, then its manifest, data set, encoders and models."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from contract import bundle as bundle_files
from contract.affinity import LISTS, user_item_feature_names
from contract.arithmetic import check_matmul
from contract.arrays import Array, Floats
from contract.bundle import (
    USER_TOWER,
    BundleError,
    Inputs,
    Manifest,
    ModelSpec,
    RankerSpec,
    read_dataset,
    read_manifest,
    table_parts,
    with_rows,
)
from contract.dataset import Dataset
from contract.encoders import Encoders
from contract.errors import ErrorCode, StageError
from contract.names import ITEM_ID, ITEM_VIEWS, USER_ID, USER_RECENT_ITEM_IDS, USER_VIEWS
from contract.rules.attributes import ItemAttributes
from ensemble.settings import Provider
from ensemble.stores.embeddings.mapped import MappedEmbeddings, MappedTable
from ensemble.stores.exact import ExactVectorIndex
from ensemble.stores.head import head_of

_PROVIDERS = {
    Provider.CPU: ["CPUExecutionProvider"],
    Provider.CUDA: ["CUDAExecutionProvider"],
    Provider.TENSORRT: ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
}
"""The wanted provider first; what it has no kernel for goes to the next, at last to the CPU."""


class OnnxModel:
    """One ONNX model: `open` loads it, `run` runs it; `seconds` counts what all runs together took, and
    `cpu_seconds` the CPU of the calling thread in them."""

    def __init__(self, path: Path, output: str, provider: Provider, threads: int) -> None:
        self.path, self.output, self.provider, self.threads = path, output, provider, threads
        self.seconds = self.cpu_seconds = 0.0
        self._session: ort.InferenceSession | None = None

    def open(self) -> None:
        """Loads the model on the chosen execution provider, once.

        Raises:
            BundleError: ONNX Runtime has no such provider here, or cannot read the model.
        """
        if self._session is not None:
            return
        providers, available = _PROVIDERS[self.provider], ort.get_available_providers()
        wanted = providers[0]
        if wanted not in available:
            found = ", ".join(available)
            raise BundleError(
                f"SHORTLIST_PROVIDER={self.provider}: {wanted} is not available here, only {found}; "
                "install an onnxruntime built with it, or set SHORTLIST_PROVIDER=cpu"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:
            raise BundleError(f"{self.path}: ONNX Runtime cannot load it: {error}") from error
        if wanted not in session.get_providers():
            raise BundleError(
                f"SHORTLIST_PROVIDER={self.provider}: ONNX Runtime could not start {wanted}; "
                "check the driver and its libraries, or set SHORTLIST_PROVIDER=cpu"
            )
        self._session = session

    def run(self, inputs: Mapping[str, Array]) -> Floats:
        """Takes the model's packed inputs, gives its output, float32.

        Raises:
            StageError: `contract`, an input is not what the model was exported with; `dependency`, the run
            failed.
        """
        if self._session is None:
            self.open()
        assert self._session is not None
        started, cpu = time.perf_counter(), time.thread_time()
        try:
            (output,) = self._session.run([self.output], inputs)
        except Exception as error:
            is_ours = type(error).__name__ in ("InvalidArgument", "ValueError")
            code = ErrorCode.CONTRACT if is_ours else ErrorCode.DEPENDENCY
            raise StageError(code, self.path.stem, str(error).splitlines()[0]) from error
        finally:
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.thread_time() - cpu
        result: Floats = output
        return result


class Tower(OnnxModel):
    """The user tower: a vector per row of encoded columns."""

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        provider: Provider,
        threads: int,
        tables: Mapping[str, Array] = {},
    ) -> None:
        """Takes as `tables` what is its own of those that lie beside it, (codes, width) by column."""
        super().__init__(folder / spec.file, spec.output, provider, threads)
        self.spec, self.features, self.tables = spec, spec.columns, tables

    def __call__(self, columns: Mapping[str, Array]) -> Floats:
        """Takes encoded columns, (B,) or for lists (B,S), gives vectors (B,D). Of a column whose table lies
        beside it, codes (B,) as of the others, or the rows themselves, (B,width)."""
        return self.run(self.spec.pack(with_rows(self.tables, columns)))


class Ranker(OnnxModel):
    """The ranker: its `run` gives P(click) of every candidate of every user, (B,K)."""

    def __init__(self, folder: Path, spec: RankerSpec, provider: Provider, threads: int) -> None:
        super().__init__(folder / spec.file, spec.output, provider, threads)
        self.spec, self.features = spec, spec.columns

    def pack(self, user: Mapping[str, Array], candidate: Mapping[str, Array]) -> dict[str, Array]:
        """Takes encoded columns of users, (B,) or (B,S), and candidates, (B,K) or (B,K,L): its inputs."""
        return self.spec.user.pack(user, "user_") | self.spec.candidate.pack(candidate, "candidate_")


@dataclass(frozen=True)
class LoadedBundle:
    """An opened bundle. Its models are loaded by the stages that run them."""

    folder: Path
    manifest: Manifest
    dataset: Dataset
    encoders: Encoders
    user_tower: Tower
    ranker: Ranker

    @classmethod
    def open(
        cls, folder: Path, provider: Provider = Provider.CPU, threads: int = 1, verify: bool = True
    ) -> LoadedBundle:
        """Verifies a bundle's checksums, then reads it.

        Raises:
            BundleError: a file is missing, changed or unreadable, or a model wants a column that nobody
                defines.
            ArithmeticFault: vectors would be compared wrongly on this processor.
        """
        check_matmul()
        manifest = read_manifest(folder, verify=verify)
        bundle = cls(
            folder=folder,
            manifest=manifest,
            dataset=read_dataset(folder),
            encoders=Encoders.load(folder / bundle_files.ENCODERS_FILE),
            user_tower=Tower(
                folder, manifest.user_tower, provider, threads, table_parts(folder, manifest, USER_TOWER)
            ),
            ranker=Ranker(folder, manifest.ranker, provider, threads),
        )
        known = {*bundle.user_features, *bundle.item_features, *user_item_feature_names(bundle.dataset)}
        models: tuple[Tower | Ranker, ...] = (bundle.user_tower, bundle.ranker)
        for model in models:
            for name in model.features:
                if name not in known or name not in bundle.encoders.fields:
                    raise BundleError(
                        f"{model.path}: wants {name}, which dataset.yaml or the encoders do not define"
                    )
        return bundle

    @cached_property
    def embeddings(self) -> MappedEmbeddings:
        """The tables that lie beside the models, from the bundle's own files."""
        fields, known = self.encoders.fields, self.encoders.vocabularies
        return MappedEmbeddings(
            {
                table.column: MappedTable(
                    _mapped(self.folder / table.file), known[fields[table.column].vocabulary]
                )
                for table in self.manifest.tables
            }
        )

    @cached_property
    def user_features(self) -> tuple[str, ...]:
        """Everything known per request: the user id, the user views' columns, the context."""
        columns = [name for view in USER_VIEWS for name in self.dataset.view_columns(view)]
        return (USER_ID, *columns, *self.manifest.context)

    @cached_property
    def taken_of_users(self) -> tuple[str, ...]:
        """The user views' columns that a model or a source takes, or that candidates are compared with."""
        of_users, of_candidates = self.ranker_inputs
        models = {*self.user_tower.features, *of_users.columns}
        if set(user_item_feature_names(self.dataset)) & set(of_candidates.columns):
            models |= set(LISTS)
        if self.manifest.order.asks_known:
            models.add(USER_RECENT_ITEM_IDS)
        models |= {source.history for source in self.manifest.sources if source.history is not None}
        return tuple(name for name in self.dataset.user_features if name in models)

    @cached_property
    def item_features(self) -> tuple[str, ...]:
        """Everything known per item: the item id and the item views' columns."""
        return (ITEM_ID, *(name for view in ITEM_VIEWS for name in self.dataset.view_columns(view)))

    @cached_property
    def item_ids(self) -> npt.NDArray[np.int64]:
        """The catalogue's ids, ascending, int64 (I,)."""
        ids: npt.NDArray[np.int64] = np.load(self.folder / bundle_files.ITEM_IDS_FILE, allow_pickle=False)
        return ids

    @cached_property
    def item_vectors(self) -> npt.NDArray[np.float32]:
        """The catalogue's vectors, float32 (I,D), aligned with `item_ids`: mapped, so that processes share
        them and the system may drop what is not used."""
        vectors: npt.NDArray[np.float32] = np.load(
            self.folder / bundle_files.ITEM_VECTORS_FILE, mmap_mode="r", allow_pickle=False
        )
        return np.asarray(vectors)

    @cached_property
    def attributes(self) -> ItemAttributes:
        """What the items hold in the columns that may be filtered on, with a last row for no item."""
        from ensemble.stores.attributes import CatalogueColumns  # and PyArrow, which most chains do without

        table = self.folder / bundle_files.ITEM_TABLE_FILE
        return ItemAttributes(CatalogueColumns(table, self.item_ids, self.manifest.filters))

    @cached_property
    def is_new(self) -> npt.NDArray[np.bool_]:
        """Which items a source of new ones gives, bool (I+1,); the last row is no item."""
        is_new = np.zeros(len(self.item_ids) + 1, dtype=np.bool_)
        for source in self.manifest.sources:
            if source.kind == "new" and source.file is not None:
                is_new[:-1] |= np.load(self.folder / source.file, allow_pickle=False) != 0
        return is_new

    @cached_property
    def ranker_inputs(self) -> tuple[Inputs, Inputs]:
        """What is to be made for the ranker of users, and of candidates; where it is not run, what the order
        weighs of it."""
        spec = self.ranker.spec
        if self.manifest.is_ranked:
            return spec.user, spec.candidate
        columns = self.manifest.order.numeric
        return Inputs(), Inputs(numeric=tuple(n for n in spec.candidate.numeric if n in columns))

    def head(self, count: int) -> ExactVectorIndex:
        """Makes an exact index of the `count` most popular items. The vectors are mapped once more for it, so
        that what reading all of them brought into memory goes again."""
        path = self.folder / bundle_files.ITEM_VECTORS_FILE
        return head_of(self.item_ids, np.load(path, mmap_mode="r", allow_pickle=False), count)


def _mapped(path: Path) -> Floats:
    mapped: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
