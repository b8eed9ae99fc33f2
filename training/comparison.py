"""Trains architectures on the same rows and split, and puts what they reach and cost into one table."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from contract import bundle as files
from contract.arrays import Array
from contract.bundle import OrderSpec
from contract.encoders import Encoders
from training.config import SettingError, TrainingSettings
from training.data.prepared import Prepared
from training.evaluation.assess import SERVED, assess_end_to_end, assess_ranking
from training.evaluation.report import Report
from training.examples.candidates import CandidateRows
from training.examples.ranking import RankingExamples, RankingParts
from training.examples.snapshot import candidate_columns
from training.examples.split import HeldOut, held_out
from training.export.ranker import export_ranker, ranker_spec
from training.export.towers import model_spec
from training.export.write import write_json
from training.identity import fingerprint
from training.learn import fit_encoders, fit_retriever, learn_slates, make_candidates
from training.models import RANKING_MODELS, RETRIEVAL_MODELS, check_task_weights, chosen_ranking
from training.pipeline import set_threads
from training.progress import TrainingProgress
from training.record import RANKING, RETRIEVAL, recorded
from training.recording import facts_of
from training.slates.search import evaluate_vectors
from training.slates.slates import Learned, Retriever

FOLDER = "compare"
"""Below `var`: one folder per data set, in it a file per finished model."""
CANDIDATES = 100
REPEATS = 200
"""Requests of which the median time counts, after as many again to warm up."""
Row = dict[str, Any]
_COLUMNS = {
    "recall@10": ("Recall@10", ".4f"),
    "recall@100": ("Recall@100", ".4f"),
    "ndcg@10": ("NDCG@10", ".4f"),
    "own": ("its own", ".4f"),
    "auc": ("AUC", ".4f"),
    "gauc": ("GAUC", ".4f"),
    "log_loss": ("log loss", ".4f"),
    "seconds": ("trained in s", ".0f"),
    "megabytes": ("MB", ".2f"),
    "milliseconds": ("ms", ".2f"),
}


def compare(
    prepared: Prepared, settings: TrainingSettings, models: Sequence[str], steps: TrainingProgress
) -> str:
    """Trains and measures each of `models`, all where none is named, gives the table in Markdown.

    A model that was finished on the same data, settings and code keeps its row, so a run that was broken off
    goes on where it was.

    Raises:
        SettingError: there is no model of a name, no label of one that is weighed, or nothing weighs it.
    """
    known = (*RETRIEVAL_MODELS, *RANKING_MODELS)
    if unknown := [name for name in models if name not in known]:
        raise SettingError(f"MODELS={','.join(unknown)}: there is no such model; choose {' or '.join(known)}")
    rankers = [name for name in models or known if name in RANKING_MODELS]
    check_task_weights(settings, prepared.dataset.labels, rankers)
    set_threads(settings.threads)
    folder, made_of = settings.var_dir / FOLDER / prepared.dataset.name, fingerprint(prepared, settings)
    folder.mkdir(parents=True, exist_ok=True)
    ground, rows = _Ground(prepared, settings, steps), []
    for name in models or known:
        file = folder / f"{name}-{made_of[:8]}.json"
        if file.is_file():
            steps.say(f"{file}: data, settings and code unchanged, kept")
        else:
            write_json(file, _recorded_row(ground, name, file.stem))
        rows.append(json.loads(file.read_text("utf-8")))
    return _table(prepared, settings, rows)


def _recorded_row(ground: _Ground, name: str, recorded_as: str) -> Row:
    """Trains and measures one model, and keeps a record of it."""
    part = RETRIEVAL if name in RETRIEVAL_MODELS else RANKING
    chosen = {"retrieval": name} if part == RETRIEVAL else {"ranker": name}
    settings, prepared = ground.settings.model_copy(update=chosen), ground.prepared
    facts = facts_of(f"{prepared.dataset.name}-compare-{recorded_as}", "compare", prepared, settings)
    with recorded(settings.var_dir, facts) as record:
        row = ground.retrieval(name) if part == RETRIEVAL else ground.ranking(name)
        for metric in [metric for metric in _COLUMNS if metric in row]:
            record.metric(f"compare/{metric}", row[metric])
    return row


@dataclass(frozen=True, eq=False)
class _Ground:
    """What all models of a run are trained on and measured by; made when it is first asked for."""

    prepared: Prepared
    settings: TrainingSettings
    steps: TrainingProgress

    def retrieval(self, name: str) -> Row:
        """Trains and measures one retrieval model: its own order of the whole catalogue."""
        encoders = self.encoders
        settings = self.settings.model_copy(update={"retrieval": name})
        began = time.perf_counter()
        with self.steps.step(f"Train {name}"):
            retriever = fit_retriever(self.prepared, encoders, settings, settings.seed)
        seconds = time.perf_counter() - began
        model, report = retriever.model, Report(is_full=False)
        if len(self.held.user_rows):
            vectors = retriever.vectors(self.held, self.prepared.split.validate_until)
            report.add("retrieval", model.name, evaluate_vectors(self.held, *vectors))
        spec = model_spec(model.user_features, encoders.fields, files.USER_TOWER_FILE, "user_vector")
        graph = model.users_to_onnx(spec).SerializeToString()
        users = retriever.histories.as_of(np.arange(1), self.prepared.split.validate_until)
        vectors_of_items = model.encode_items(retriever.catalogue)
        return {
            "kind": "retrieval",
            "name": name,
            "title": model.name,
            "seconds": seconds,
            "megabytes": (len(graph) + vectors_of_items.nbytes) / 1e6,
            "milliseconds": _milliseconds(graph, spec.output, spec.pack(users)),
            **report.sections.get("retrieval", {}).get(model.name, {}),
        }

    def ranking(self, name: str) -> Row:
        """Trains and measures one ranker: exposures, and the order of what the settings' retrieval finds."""
        settings = self.settings.model_copy(update={"ranker": name})
        examples, retriever = replace(self.examples, candidates=self.candidates), self.retriever
        began = time.perf_counter()
        with self.steps.step(f"Train {name}"):
            ranker = chosen_ranking(settings)(examples, settings.seed)
        seconds = time.perf_counter() - began
        learned = Learned(self.encoders, retriever, ranker, examples.sample(settings.seed), OrderSpec())
        learned = learn_slates(self.prepared, learned, (), settings.k)
        report = Report(is_full=False)
        assess_ranking(report, self.prepared, settings, self.parts, examples, learned, settings.seed)
        if len(self.held.user_rows):
            vectors = retriever.vectors(self.held, self.prepared.split.validate_until)
            assess_end_to_end(report, self.prepared, learned, self.held, vectors, settings.k)
        slates = report.sections.get("end_to_end", {})
        served, own = (slates.get(order, {}) for order in (SERVED, f"{ranker.name}'s order alone"))
        return {
            "kind": "ranking",
            "name": name,
            "title": ranker.name,
            "seconds": seconds,
            **self._exported(learned),
            **{metric: served[metric] for metric in ("recall@10", "ndcg@10") if metric in served},
            **({"own": own["ndcg@10"]} if own else {}),
            **report.sections.get("ranking", {}).get(ranker.name, {}),
        }

    def _exported(self, learned: Learned) -> Row:
        """Exports the ranker, which compares it with its model, and times it on one user's candidates."""
        ranker, of_candidates = learned.ranker, candidate_columns(self.prepared.dataset)
        spec = ranker_spec(ranker.features, learned.encoders.fields, of_candidates, files.RANKER_FILE)
        with tempfile.TemporaryDirectory(prefix="shortlist-") as folder:
            export_ranker(ranker, spec, learned.sample, Path(folder))
            graph = (Path(folder) / spec.file).read_bytes()
        rows = np.arange(CANDIDATES)[None] % len(next(iter(learned.sample.values())))
        user = {name: learned.sample[name][:1] for name in spec.user.columns}
        candidates = {name: learned.sample[name][rows] for name in spec.candidate.columns}
        inputs = spec.user.pack(user, "user_") | spec.candidate.pack(candidates, "candidate_")
        return {
            "megabytes": len(graph) / 1e6,
            "milliseconds": _milliseconds(graph, spec.output, inputs),
        }

    @cached_property
    def parts(self) -> RankingParts:
        with self.steps.step("Make the ranker's rows"):
            return RankingParts.of(self.prepared)

    @cached_property
    def encoders(self) -> Encoders:
        train = self.parts.train
        with self.steps.step("Fit the workflow"):
            return fit_encoders(self.prepared, train)

    @cached_property
    def examples(self) -> RankingExamples:
        return RankingExamples.of(self.prepared, self.encoders, self.parts)

    @cached_property
    def retriever(self) -> Retriever:
        encoders = self.encoders
        with self.steps.step(f"Train {self.settings.retrieval}, whose candidates the rankers order"):
            return fit_retriever(self.prepared, encoders, self.settings, self.settings.seed)

    @cached_property
    def candidates(self) -> CandidateRows | None:
        k, seed = self.settings.k, self.settings.seed
        return make_candidates(self.prepared, self.encoders, self.parts.table, self.retriever, k, seed)

    @cached_property
    def held(self) -> HeldOut:
        return held_out(self.prepared, self.prepared.split.validate_until, self.prepared.split.test_until)


def _milliseconds(graph: bytes, output: str, inputs: Mapping[str, Array]) -> float:
    """Gives the median time of one request, on one thread as the ensemble runs models."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    times = []
    for _ in range(2 * REPEATS):
        began = time.perf_counter()
        session.run([output], dict(inputs))
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times[REPEATS:]))


def _table(prepared: Prepared, settings: TrainingSettings, rows: Sequence[Row]) -> str:
    """Writes the rows below what must be known of them."""
    lines = [
        f"On {prepared.dataset.name}, seed {settings.seed}. A retrieval model orders the whole catalogue; a "
        f"ranker orders the {settings.k} candidates of `{settings.retrieval}`, without other sources: Recall "
        "and NDCG are of both scores, weighed on validation; `its own` is NDCG@10 of the ranker's alone. "
        "AUC, GAUC and log loss are of exposures. MB: the exported model, and the items' vectors where it "
        f"retrieves. ms: one user, and for a ranker {CANDIDATES} candidates, on one thread.",
        "",
        "| `MODELS=` | model | " + " | ".join(title for title, _ in _COLUMNS.values()) + " |",
        "|---" * (len(_COLUMNS) + 2) + "|",
    ]
    for row in rows:
        cells = [format(row[key], how) if key in row else "" for key, (_, how) in _COLUMNS.items()]
        lines.append(f"| `{row['name']}` | {row['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
