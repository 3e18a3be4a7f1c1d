"""Graphed functions: what is captured, when, and what comes back. A stand-in for a GPU's graphs runs on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from random_inception import images, shared_state
from torch import Tensor

from fastfid.errors import SlowPathWarning
from fastfid.extractors import folded
from fastfid.extractors.folded import FoldedInception
from fastfid.linalg import iteration, nuclear
from fastfid.linalg.coefficients import composition
from fastfid.linalg.engine_torch import products
from fastfid.linalg.iteration import Products
from fastfid.runtime import graphs as _graphs
from fastfid.runtime.graphs import Graphed


class FakeGraphs:
    """Replays by running again into the same memory, and notes what it was asked for."""

    def __init__(self, fails: str = "") -> None:
        self.log: list[str] = []
        self.fails = fails
        self.current = "stream 0"

    def usable(self, x: Tensor) -> bool:
        return x.numel() > 0

    def stream(self, device: torch.device) -> str:
        return self.current

    def follow(self, stream: str, earlier: str) -> None:
        self.log.append(f"{stream} follows {earlier}")

    def warm_up(self, run: _graphs.Run, device: torch.device) -> None:
        self.log.append("warm up")
        run()

    def record(self, run: _graphs.Run, device: torch.device) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        self.log.append("record")
        if self.fails:
            raise RuntimeError(f"{self.fails}\nCompile with something")
        made = run()

        def replay() -> None:
            self.log.append("replay")
            with torch.inference_mode():  # a graph's writes know nothing of torch's modes
                for place, value in zip(made, run(), strict=True):
                    place.copy_(value)

        return replay, made

    def settle(self, device: torch.device) -> None:
        self.log.append("settle")


def rows_and_sum(x: Tensor) -> tuple[Tensor, ...]:
    return 2 * x, x.sum().reshape(1)


def graphed(fake: FakeGraphs, limit: int = 4, function: _graphs.Function = rows_and_sum) -> Graphed:
    return Graphed(function, "the function", limit=limit, recorder=fake)


def test_the_first_is_eager_the_second_captured_later_ones_replayed() -> None:
    fake = FakeGraphs()
    function = graphed(fake)
    logs = []
    for seed in range(4):
        x = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
        doubled, total = function(x)
        np.testing.assert_array_equal(doubled, 2 * x)
        np.testing.assert_array_equal(total, x.sum().reshape(1))
        logs.append(list(fake.log))
        fake.log.clear()
    assert logs == [[], ["warm up", "record", "replay"], ["replay"], ["replay"]]


def test_results_and_inputs_are_the_callers_own() -> None:
    function = graphed(FakeGraphs(), function=lambda x: (x[:2],))  # a view of the input is the hardest case
    inputs = [torch.full((3, 2), float(value)) for value in range(5)]
    results = [function(x)[0] for x in inputs]
    for value, (x, made) in enumerate(zip(inputs, results, strict=True)):
        np.testing.assert_array_equal(made, np.full((2, 2), value))
        np.testing.assert_array_equal(x, np.full((3, 2), value))
    results[-1].zero_()
    np.testing.assert_array_equal(function(inputs[3])[0], np.full((2, 2), 3))


def test_shape_dtype_and_layout_each_have_a_graph() -> None:
    fake = FakeGraphs()
    function = graphed(fake, limit=8)
    x = torch.randn(2, 3, 4, 5)
    for kind in (x, x.double(), x.contiguous(memory_format=torch.channels_last), x[:1], x.mT):
        for _ in range(3):
            made = function(kind)[0]
            np.testing.assert_array_equal(made, 2 * kind)
            assert (made.dtype, made.stride()) == (kind.dtype, kind.stride())
    assert fake.log.count("record") == 5


def test_the_ragged_last_batch_is_never_captured() -> None:
    fake = FakeGraphs()
    function = graphed(fake)
    for count in (8, 8, 8, 3):
        np.testing.assert_array_equal(function(torch.ones(count, 2))[1], [2.0 * count])
    assert fake.log == ["warm up", "record", "replay", "replay"]


def test_the_least_recently_used_graph_goes_and_the_device_is_waited_for() -> None:
    fake = FakeGraphs()
    function = graphed(fake, limit=2)
    for size in (1, 1, 2, 2, 1):
        function(torch.ones(size))
    assert "settle" not in fake.log
    function(torch.ones(3))  # 2 goes, which was captured
    assert fake.log.count("settle") == 1
    fake.log.clear()
    function(torch.ones(1))
    assert fake.log == ["replay"]
    function(torch.ones(4))  # 3 goes, which was only seen: nothing to wait for
    function(torch.ones(2))  # 1 goes
    assert fake.log == ["replay", "settle"]
    function(torch.ones(2))
    assert fake.log[-3:] == ["warm up", "record", "replay"]
    function.clear()
    assert fake.log[-1] == "settle"
    function(torch.ones(2))
    assert fake.log[-1] == "settle", "seen for the first time again"


def test_a_failed_capture_says_so_once_and_goes_on_eagerly() -> None:
    fake = FakeGraphs(fails="operation not permitted")
    function = graphed(fake)
    x = torch.arange(3.0)
    function(x)
    with pytest.warns(SlowPathWarning, match="the function could not be captured.*operation not permitted$") as caught:
        np.testing.assert_array_equal(function(x)[0], 2 * x)
    assert len(caught) == 1
    for other in (x, x, torch.ones(2), torch.ones(2)):
        np.testing.assert_array_equal(function(other)[0], 2 * other)
    assert fake.log == ["warm up", "record"]


def test_an_error_of_the_function_itself_is_not_taken_for_a_failed_capture() -> None:
    calls = []

    def breaks(x: Tensor) -> tuple[Tensor, ...]:
        calls.append(x)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return (x,)

    function = graphed(FakeGraphs(), function=breaks)
    function(torch.ones(1))
    with pytest.raises(RuntimeError, match="out of memory"):
        function(torch.ones(1))


def test_where_there_are_no_graphs_the_function_runs() -> None:
    fake = FakeGraphs()
    function = graphed(fake)
    for _ in range(3):
        assert function(torch.empty(0))[0].shape == (0,)
    assert fake.log == []
    on_cpu = Graphed(rows_and_sum, "the function")
    for _ in range(3):
        np.testing.assert_array_equal(on_cpu(torch.ones(2))[0], [2.0, 2.0])


def test_another_stream_waits_for_the_last_one() -> None:
    fake = FakeGraphs()
    function = graphed(fake)
    x = torch.ones(2)
    for stream in ("stream 0", "stream 0", "stream 1", "stream 1", "stream 0"):
        fake.current = stream
        function(x)
    assert [line for line in fake.log if "follows" in line] == [
        "stream 1 follows stream 0",
        "stream 0 follows stream 1",
    ]


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode_may_come_and_go(first: bool) -> None:
    function = graphed(FakeGraphs())
    for turn in range(6):
        with torch.inference_mode(first == (turn % 3 < 2)):
            x = torch.full((2,), float(turn))
            np.testing.assert_array_equal(function(x)[0], 2 * x)


def test_a_result_has_no_gradient_history() -> None:
    function = graphed(FakeGraphs())
    x = torch.ones(2, requires_grad=True)
    for _ in range(2):
        function(torch.ones(2))
    assert not function(x)[0].requires_grad


def test_two_threads_get_their_own_results() -> None:
    function = graphed(FakeGraphs())
    wrong = []

    def work(value: float) -> None:
        x = torch.full((1000,), value)
        for _ in range(50):
            if not torch.equal(function(x)[0], 2 * x):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- what is captured -------------------------------------------------------------------------------------------------


def test_the_network_can_be_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no state and its result depends on the input's values alone: the stand-in would betray the rest."""
    fake = FakeGraphs()
    monkeypatch.setattr(_graphs, "CudaRecorder", lambda: fake)
    eager = FoldedInception(shared_state(), torch.device("cpu"), "fp32")
    fast = FoldedInception(shared_state(), torch.device("cpu"), "fp32", graphs=True)
    for seed in range(3):
        x = images(2, 75, seed=seed)
        for tap, ours, want in zip(("64", "768"), fast(x, ("64", "768")), eager(x, ("64", "768")), strict=True):
            np.testing.assert_array_equal(ours, want, err_msg=tap)
            assert not ours.is_inference()
    assert fake.log == ["warm up", "record", "replay", "replay"]
    fast(images(2, 75), ("64",))
    assert fake.log[-1] == "replay", "other taps are another function"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_in_the_network_reads_a_value_back(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device there are no values; what would wait for a GPU raises there."""
    meta = torch.device("meta")
    monkeypatch.setattr(folded, "onednn_usable", lambda: False)
    network = FoldedInception(shared_state(), meta, precision)
    made = network(torch.empty(2, 3, 299, 299, device=meta), ("64", "spatial", "2048", "logits"))
    assert [value.shape[1] for value in made] == [64, 2023, 2048, 1008]
    with pytest.raises(RuntimeError, match="meta"):
        bool(made[0].sum() > 0)


def test_nothing_in_a_stage_reads_a_value_back() -> None:
    x = torch.empty(2, 6, 5, dtype=torch.float64, device="meta")
    made, spectral = iteration._apply(x, composition(1e-5), 1.0, Products(*products()), 2.0**-53)
    assert made.shape == x.shape
    assert 0.9 < spectral < 1.1


def test_a_stage_is_one_function_for_equal_polynomials() -> None:
    polynomials = tuple(p for p, _ in composition(1e-3))
    first = iteration._graphed(polynomials, Products(*products()))
    assert iteration._graphed(tuple(p for p, _ in composition(1e-3)), Products(*products())) is first
    assert iteration._graphed(polynomials[:-1], Products(*products())) is not first
    x = torch.randn(1, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 8
    np.testing.assert_array_equal(first(x)[0], iteration._steps(x, polynomials, Products(*products())))


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_replay_gives_the_bits_of_an_eager_run(precision: str) -> None:
    device = torch.device("cuda", 0)
    eager = FoldedInception(shared_state(), device, precision)
    fast = FoldedInception(shared_state(), device, precision, graphs=True)
    taps = ("64", "spatial", "2048", "logits")
    for seed in range(4):
        x = images(3, seed=seed).to(device).contiguous(memory_format=torch.channels_last)
        for tap, ours, want in zip(taps, fast(x, taps), eager(x, taps), strict=True):
            assert torch.equal(ours, want), (tap, seed)
    fast.check()


@pytest.mark.gpu
def test_a_replay_does_not_wait_for_the_gpu() -> None:
    device = torch.device("cuda", 0)
    fast = FoldedInception(shared_state(), device, "fp16", graphs=True)
    x = images(2, 139).to(device)
    for _ in range(2):
        want = fast(x)[0]
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = fast(x)[0]
        ragged = fast(x[:1])[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, want)
    assert torch.isfinite(ragged).all()


@pytest.mark.gpu
def test_a_replay_on_another_stream_and_after_the_memory_was_used_again() -> None:
    device = torch.device("cuda", 0)
    function = Graphed(lambda x: ((x @ x.mT).sum(0), x + 1), "the function")
    stream = torch.cuda.Stream(device)
    for turn in range(6):
        with torch.cuda.stream(stream if turn % 2 else torch.cuda.default_stream(device)):
            x = torch.full((64, 64), float(turn), device=device)
            torch.randn(1 << 20, device=device)
            total, more = function(x)
            assert torch.equal(more, x + 1)
            assert torch.equal(total, torch.full_like(total, 64.0 * 64.0 * turn * turn))


@pytest.mark.gpu
def test_a_capture_that_is_not_possible_is_told_and_survived() -> None:
    def waits(x: Tensor) -> tuple[Tensor, ...]:
        return (x * float(x.sum()),)

    function = Graphed(waits, "the function")
    x = torch.ones(4, device="cuda")
    function(x)
    with pytest.warns(SlowPathWarning, match="the function could not be captured"):
        assert torch.equal(function(x)[0], 4 * x)
    assert torch.equal(function(x)[0], 4 * x)
    torch.cuda.synchronize()
    assert torch.isfinite(torch.randn(5, device="cuda")).all(), "random numbers can still be drawn"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float64", "mixed"])
def test_captured_stages_give_the_bits_of_eager_ones(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    m = [torch.randn(2, 96, 80, dtype=torch.float64, generator=generator).cuda() for _ in range(3)]
    rounding = torch.zeros(2, dtype=torch.float64, device="cuda")
    captured = [nuclear.by_newton_schulz(one, rounding, 1e-5, precision=precision) for one in m]
    monkeypatch.setattr(iteration, "_LAUNCH_BOUND", 0)
    for one, found in zip(m, captured, strict=True):
        want = nuclear.by_newton_schulz(one, rounding, 1e-5, precision=precision)
        assert torch.equal(found.u, want.u)
        assert torch.equal(found.value, want.value)
