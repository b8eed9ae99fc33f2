"""Measures the designs beside each other in one run: ours, then each other one while ours waits beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import compare
from bench.arguments import USERS_FILE
from bench.designs import (
    GATEWAY,
    OURS,
    REFERENCE_01,
    REFERENCE_04,
    STOCK,
    Design,
    GrpcCaller,
    HttpCaller,
    one_id_messages,
    our_messages,
)
from bench.processes import REDIS, of_ours, of_triton
from bench.record import Record, say
from bench.replies import World, judge_gateway, judge_ours, judge_reference, judge_stock
from bench.series import COMPARED_AT, Measured, Plan, closed_series, measured, open_series
from bench.servers import BenchError, Server, other_server, run
from deploy.local.settings import LOOPBACK, ROOT, LocalSettings

N, K = 10, 100
STOCK_MODEL, REFERENCE_MODEL, CHECKED_MODEL = "executor_model", "ensemble-model", "checked-model"
FOLDERS = {STOCK: "stock", REFERENCE_01: "reference_01", REFERENCE_04: "reference_04"}
CODES_FILE = "item_ids_by_code.npy"
ORDERED = ("ordered_ids", "ordered_scores")
CORRECT, RATIOS, RUNS = "The same answers", "Ratios", "Models that one stock request runs"
COMPARED_USERS, BESIDE_S = 20, 4.0


@dataclass(frozen=True)
class Bench:
    """What is measured, on which servers, where it is recorded."""

    settings: LocalSettings
    record: Record
    bundle: str
    world: World[int]
    context: tuple[str, ...]
    images: Path

    @property
    def our_address(self) -> str:
        """Where our Triton answers over gRPC."""
        return f"{LOOPBACK}:{self.settings.triton_grpc_port}"

    def ours(self) -> Design:
        """Our ensemble, straight to Triton."""
        messages = our_messages(self.bundle, self.world.users, self.context, self.world.n)
        caller = GrpcCaller(self.our_address, messages)
        processes = {k: p for k, p in of_ours(self.settings).items() if k != "gateway"}
        return Design(OURS, caller, processes, judge_ours(self.world))

    def gateway(self) -> Design:
        """Our ensemble behind the gateway."""
        caller = HttpCaller(self.settings.port, self.world.users, self.world.n)
        return Design(GATEWAY, caller, of_ours(self.settings), judge_gateway(self.world))


def build(settings: LocalSettings, name: str, saved_models: Path, dataset: str) -> Path:
    """Builds a design from the same bundle and training run, its rows in the same Redis.

    Raises:
        BenchError: the training run's SavedModels are not there, or it does not build.
    """
    if not (saved_models / "ranker").is_dir():
        raise BenchError(f"{saved_models}: not found; train the bundle again, which keeps its SavedModels")
    say(f"building {name} from the same bundle")
    target = settings.var / FOLDERS[name]
    arguments = {
        "bundle": settings.bundle,
        "saved-models": saved_models,
        "features": settings.var / "data" / dataset / "features",
        "target": target,
        "k": K,
        "n": N,
    }
    options = [part for option, value in arguments.items() for part in (f"--{option}", str(value))]
    run(settings, "training", "-m", f"bench.{FOLDERS[name]}.build", *options, PYTHONPATH=str(ROOT))
    return target


def measure_other(bench: Bench, name: str, folder: Path, plan: Plan, capacity: float) -> None:
    """Starts another design, compares its answers with ours, and measures it; `capacity` is ours.

    Ours is measured again right before and after the series that is compared, so that a busy minute of the
    machine falls on both.

    Raises:
        BenchError: it does not answer, or answers wrongly.
    """
    model = STOCK_MODEL if name == STOCK else REFERENCE_MODEL
    say(f"starting {name}: TensorFlow in some processes, about a minute")
    with other_server(bench.settings, folder, model) as server:
        users = bench.world.users[:: max(1, len(bench.world.users) // COMPARED_USERS)][:COMPARED_USERS]
        if name == STOCK:
            _compare_stock(bench, server, folder, users)
        else:
            _compare_reference(bench, name, server, users)
        design, ours, beside = _other(bench, name, server, folder), bench.ours(), list[Measured]()

        def measure_ours_beside() -> None:
            load = ours.caller.closed(COMPARED_AT, BESIDE_S / 4, seed=98)
            del load  # warm again
            seed = len(beside)
            beside.append(measured(ours, lambda: ours.caller.closed(COMPARED_AT, BESIDE_S, seed)))

        done = closed_series(bench.record, design, plan, measure_ours_beside)
        theirs = done[COMPARED_AT]
        ours_per_s = float(np.mean([one.answers_per_s for one in beside]))
        ours_cpu_ms = float(np.mean([one.cpu_ms for one in beside]))
        figures = {"ours_per_s": ours_per_s, "theirs_per_s": theirs.answers_per_s}
        figures |= {"ratio": ours_per_s / theirs.answers_per_s}
        figures |= {"ours_cpu_ms": ours_cpu_ms, "theirs_cpu_ms": theirs.cpu_ms}
        figures |= {"cpu_ratio": theirs.cpu_ms / ours_cpu_ms}
        speeds = ", ".join(f"{one.answers_per_s:.0f}/s" for one in beside)
        note = f"ours measured {BESIDE_S:g} s before and after: {speeds}"
        labels = {"design": name}
        row = f"ours to {name}, gRPC, {COMPARED_AT} clients"
        bench.record.add(RATIOS, row, figures, note, labels)
        open_series(bench.record, design, plan, capacity)


def _other(bench: Bench, name: str, server: Server, folder: Path) -> Design:
    users, world = bench.world.users, bench.world
    processes = of_triton(server.pid) | {REDIS: of_ours(bench.settings)[REDIS]}
    if name == STOCK:
        messages = one_id_messages(STOCK_MODEL, "user_id", users, ORDERED)
        judge = judge_stock(world, np.load(folder / CODES_FILE))
    else:
        messages = one_id_messages(REFERENCE_MODEL, "user_id_raw", users, ORDERED)
        judge = judge_reference(world)
    return Design(name, GrpcCaller(server.address, messages), processes, judge)


def _compare_reference(bench: Bench, name: str, server: Server, users: Sequence[int]) -> None:
    outputs = (*ORDERED, "item_id_raw", "ranking_scores")
    messages = one_id_messages(CHECKED_MODEL, "user_id_raw", users, outputs)
    ours = compare.our_answers(bench.our_address, bench.bundle, users, bench.context, N)
    agreement = compare.agree_reference(ours, compare.answers(server.address, messages), K)
    _add_agreement(bench, name, agreement, "the K nearest items of each user; scores of the items both rank")
    if agreement.nearest < 1 or agreement.scores < 1:
        raise BenchError(f"{name} answers otherwise than ours: {agreement}")


def _compare_stock(bench: Bench, server: Server, folder: Path, users: Sequence[int]) -> None:
    messages = one_id_messages(STOCK_MODEL, "user_id", users, ORDERED)
    ours = compare.our_answers(bench.our_address, bench.bundle, users, bench.context, N)
    before = compare.runs(server.address)
    theirs = compare.answers(server.address, messages)
    per_request = _runs_since(before, compare.runs(server.address), len(users))
    agreement = compare.agree_stock(ours, theirs, np.load(folder / CODES_FILE))
    note = "its approximate index finds others as well; scores of the items that ours ranks too"
    _add_agreement(bench, STOCK, agreement, note)
    if not agreement.scores > 0.5:
        raise BenchError(f"only {agreement.scores:.0%} of the stock ensemble's scores are those of ours")
    for model, times in sorted(per_request.items()):
        bench.record.add(RUNS, model, {"runs_per_request": times})


def _runs_since(before: Mapping[str, int], after: Mapping[str, int], requests: int) -> dict[str, float]:
    return {model: (count - before[model]) / requests for model, count in after.items()}


def _add_agreement(bench: Bench, name: str, agreement: compare.Agreement, note: str) -> None:
    figures = {
        "nearest_items_percent": 100 * agreement.nearest,
        "scores_within_1e-4_percent": 100 * agreement.scores,
        "scores_compared": agreement.compared,
    }
    bench.record.add(CORRECT, f"ours and {name}", figures, note, {"design": name})


def known_users(*folders: Path) -> tuple[int, ...]:
    """The users whom every one of the built designs can answer: those with a history."""
    held = [set(json.loads((folder / USERS_FILE).read_text())) for folder in folders]
    return tuple(sorted(set.intersection(*held))) if held else ()
