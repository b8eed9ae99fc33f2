"""The benchmark's own judgement: which answers it takes, what it counts, what it publishes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as triton

from bench import flame, grpc_traffic, page, targets
from bench.designs import GATEWAY, our_messages, written
from bench.flame_svg import write_svg
from bench.grpc_traffic import NOT_SENT
from bench.load.traffic import Exchange
from bench.record import Record
from bench.replies import Kind, World, judge_gateway, judge_ours, judge_reference, tensors_of
from bench.series import CLOSED, COMPARED_AT
from bench.servers import BenchError
from bench.stacks import ONNX, PYTHON, REDIS, Stack, inside, shares
from contract.environment import LOCAL_REDIS
from contract.slates import Degradation, degradation_mask
from contract.tensors import ANSWER, ANSWER_TENSORS, PAD_ID, REQUEST, pack, request_layout, unpack
from tests.builders.ports import free_port

USER, SEEN, SLATE = 7, 3, [1, 2]


@pytest.fixture
def world() -> World[int]:
    made = World(url=LOCAL_REDIS, dataset="small", items=frozenset(range(6)), users=(USER,), n=2)
    made.__dict__["seen"] = {USER: frozenset({SEEN})}  # as if read from Redis
    return made


def exchange(body: bytes, status: int = 200) -> Exchange:
    return Exchange(USER, 0.0, 0.0, 0.01, status, body)


def reply(**tensors: np.ndarray) -> Exchange:
    kinds = {"int64": "INT64", "float32": "FP32"}
    message = triton.ModelInferResponse()
    for name, array in tensors.items():
        message.outputs.add(name=name, datatype=kinds[str(array.dtype)], shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return exchange(message.SerializeToString())


def ours(ids: list[int], degraded: int = 0) -> Exchange:
    tensors = {t.name: np.zeros((1, t.width), t.dtype) for t in ANSWER_TENSORS}
    tensors["item_ids"][:], tensors["degraded"][:] = PAD_ID, degraded
    tensors["item_ids"][0, : len(ids)] = ids
    return reply(answer=pack(tensors, ANSWER_TENSORS))


def of_before(ids: list[int]) -> Exchange:
    return reply(item_ids=np.array([ids]), degraded=np.array([[0]]))


def gateway(ids: list[int], source: str = "ensemble", degraded: tuple[str, ...] = ()) -> Exchange:
    items = [{"item_id": i} for i in ids]
    return exchange(json.dumps({"items": items, "source": source, "degraded": degraded}).encode())


@pytest.mark.parametrize(
    "ids", [[1], [1, 1], [1, SEEN], [1, 99]], ids=["short", "repeats", "seen", "no item"]
)
def test_a_wrong_slate_of_ours_ends_the_run(world: World[int], ids: list[int]) -> None:
    assert judge_ours(world)(ours(SLATE)) is Kind.FULL
    with pytest.raises(BenchError, match="wrong slate"):
        judge_ours(world)(ours(ids))
    with pytest.raises(BenchError, match="wrong slate"):
        judge_gateway(world)(gateway(ids))


def test_references_may_answer_seen_items_but_none_twice(world: World[int]) -> None:
    assert judge_reference(world)(reply(ordered_ids=np.array([1, SEEN]))) is Kind.FULL
    with pytest.raises(BenchError, match="wrong slate"):
        judge_reference(world)(reply(ordered_ids=np.array([1, 1])))


def test_only_whole_slates_count_as_full(world: World[int]) -> None:
    lacking = degradation_mask([Degradation.FEWER_CANDIDATES])
    assert judge_ours(world)(ours(SLATE, lacking)) is Kind.DEGRADED
    assert judge_ours(world)(of_before(SLATE)) is Kind.FULL
    judge = judge_gateway(world)
    assert judge(gateway(SLATE)) is Kind.FULL
    assert judge(gateway(SLATE, degraded=("display",))) is Kind.DEGRADED
    assert judge(gateway(SLATE, source="popular")) is Kind.POPULAR
    assert judge(exchange(b"", status=503)) is Kind.REFUSED
    assert judge(exchange(b"timeout", status=0)) is Kind.FAILED
    assert judge(exchange(NOT_SENT, status=0)) is Kind.NOT_SENT
    with pytest.raises(BenchError, match="422"):
        judge(exchange(b"no", status=422))


def test_messages_ask_for_their_user_alone() -> None:
    messages = our_messages("a-bundle", [USER, 8], ["context_hour"], n=10)
    for user, message in messages.items():
        request = triton.ModelInferRequest.FromString(message)
        sent = {i.name: raw for i, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        assert set(sent) == {REQUEST}
        tensors = unpack(np.frombuffer(sent[REQUEST], np.int64)[None], request_layout(["context_hour"]))
        assert (tensors["user_id"].item(), tensors["n"].item()) == (user, 10)
        assert [output.name for output in request.outputs] == [ANSWER.name]
    older = ("user_id", "n", "filters", "exclude_item_ids", "quality", "like_item_id", "context_hour")
    (message,) = our_messages("a-bundle", [USER], ["context_hour"], 10, inputs=older, pad_id=-1).values()
    request = triton.ModelInferRequest.FromString(message)
    assert {i.name for i in request.inputs} == set(older) - {"like_item_id"}
    assert set(written("m", [1], lambda _: {"x": np.zeros((1, 1), np.int64)}, ["y"])) == {1}


def test_replies_are_read_as_they_were_sent() -> None:
    scores = np.array([[0.5, 0.25]], np.float32)
    assert np.array_equal(tensors_of(reply(scores=scores).body)["scores"], scores)


STACKS = [
    Stack(("main", "TritonPythonModel.execute (model.py:1)", "run (onnxruntime/x.py:1)", "gemm"), 6),
    Stack(("main", "TritonPythonModel.execute (model.py:1)", "execute (redis/client.py:1)", "recv"), 3),
    Stack(("main", "TritonPythonModel.execute (model.py:1)", "top_n (order.py:1)"), 1),
    Stack(("main", "wait for a request"), 90),
]


def test_waiting_for_requests_is_no_time_of_the_chain(tmp_path: Path) -> None:
    cuts = inside(STACKS)
    assert {part: share for part, share in shares(cuts).items() if share} == {
        ONNX: 0.6,
        REDIS: 0.3,
        PYTHON: 0.1,
    }
    write_svg(tmp_path / "a.svg", cuts, "title")
    drawn = (tmp_path / "a.svg").read_text()
    assert "ONNX Runtime 60%" in drawn
    assert "top_n (order.py:1): 10.0%" in drawn
    with pytest.raises(BenchError, match="no sample"):
        inside(STACKS[3:])


@pytest.mark.parametrize(("rate", "verdict"), [(401.0, "met"), (399.0, "missed"), (None, "not measured")])
def test_targets_come_first_and_say_whether_they_are_met(
    tmp_path: Path, rate: float | None, verdict: str
) -> None:
    record = Record("bundle")
    if rate:
        labels = {"design": GATEWAY, "clients": COMPARED_AT}
        record.add(CLOSED, "row", {"full_per_s": rate}, labels=labels)
    targets.add_targets(record)
    assert record.rows[0].group == targets.TARGETS
    assert f"**{verdict}**" in record.rows[0].note
    target = tmp_path / "page.md"
    target.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.publish(record, target)
    text = target.read_text()
    assert (text[:6], text[-6:]) == ("before", "after\n")
    assert "old" not in text
    assert record.commit[:8] in text
    with pytest.raises(ValueError, match="missing"):
        page.publish(record, _unmarked(tmp_path))


def _unmarked(folder: Path) -> Path:
    path = folder / "unmarked.md"
    path.write_text("nothing")
    return path


def test_an_open_loop_sends_no_more_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_sender: object, due_s: float) -> Exchange:
        await asyncio.sleep(0.4)
        sender: grpc_traffic._Sender = _sender  # type: ignore[assignment]
        answered = Exchange(USER, due_s, due_s, sender.now(), 200, b"")
        sender.run.exchanges.append(answered)
        return answered

    monkeypatch.setattr(grpc_traffic._Sender, "send", never)
    monkeypatch.setattr("grpc.aio.insecure_channel", lambda *_, **__: _Channel())
    run = asyncio.run(grpc_traffic.open_loop("", {USER: b""}, [USER], rate=1000, duration_s=0.3))
    sent = [e for e in run.exchanges if e.status]
    assert len(sent) == grpc_traffic.MOST_IN_FLIGHT
    assert {e.body for e in run.exchanges if not e.status} == {NOT_SENT}


class _Channel:
    def unary_unary(self, _method: str) -> None: ...

    async def channel_ready(self) -> None: ...

    async def close(self) -> None: ...


def test_a_flame_graph_of_nothing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHORTLIST_VAR_DIR", str(tmp_path))
    monkeypatch.setenv("SHORTLIST_REDIS_PORT", str(free_port()))
    assert flame.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the stack does not run" in line
    assert line.endswith("run make up")
    with pytest.raises(BenchError, match="no Python process"):
        flame.busiest_stub({"tritonserver": []})
