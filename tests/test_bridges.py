"""Bridges: arrays cross bit for bit and as copies, and gradients are those of the loss that was returned."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.batch import Batch
from harness.bridges import Bridge, FrameworkUnavailable, bridge_for, frameworks, unavailable
from harness.bridges.stopwatch import Task, stopwatch_for
from harness.declaration import Implementation, implementation

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FRAMEWORKS = ["numpy", "torch"]
FLOATS = [np.dtype("f8"), np.dtype("f4"), np.dtype("f2"), BFLOAT16]


def declared(function: Any, framework: str, **keywords: Any) -> Implementation:
    implementation(framework=framework, loss="cross_entropy", grade="absolute", **keywords)(function)
    found: Implementation = function.__xent_implementation__
    return found


def make_batch(dtype: Any = np.float64, rows: int = 5, classes: int = 7, **options: Any) -> Batch:
    rng = np.random.default_rng(3)
    return Batch(
        "cross_entropy",
        rng.standard_normal((rows, classes)).astype(dtype),
        rng.integers(0, classes, rows),
        rng.standard_normal(rows).astype(dtype),
        options,
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def numpy_loss(logits, target):
    return -np.log(softmax(logits)[np.arange(len(target)), target])


def numpy_gradient(logits, target, upstream):
    p = softmax(logits)
    p[np.arange(len(target)), target] -= 1
    return upstream[:, None] * p


def torch_loss(logits, target, *, reduction="mean"):
    import torch

    return torch.nn.functional.cross_entropy(logits, target, reduction=reduction)


def true_gradient(batch: Batch) -> np.ndarray:
    wide = Batch(batch.loss, batch.logits.astype("f8"), batch.target, batch.upstream.astype("f8"))
    return numpy_gradient(wide.logits, wide.target, wide.upstream)


@pytest.fixture(scope="module", params=FRAMEWORKS)
def bridge(request: pytest.FixtureRequest) -> Bridge:
    return bridge_for(request.param)


@given(st.data())
@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_bit_pattern_survives(framework: str, dtype: np.dtype, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 8))
    patterns = data.draw(st.lists(st.integers(0, 256**dtype.itemsize - 1), min_size=size, max_size=size))
    array = np.array(patterns, dtype=f"u{dtype.itemsize}").view(dtype)
    bridge = bridge_for(framework)
    back = bridge.numpy(bridge.native(array))
    assert back.dtype == dtype
    assert back.tobytes() == array.tobytes()


def test_all_of_bfloat16_survives_torch() -> None:
    import torch

    bridge = bridge_for("torch")
    array = np.arange(1 << 16, dtype="u2").view(BFLOAT16)
    tensor = bridge.native(array)
    assert tensor.dtype == torch.bfloat16
    assert bridge.numpy(tensor).tobytes() == array.tobytes()
    finite = np.isfinite(array.astype("f4"))
    assert (tensor.float().numpy()[finite] == array.astype("f4")[finite]).all()


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [*FLOATS, np.dtype("i8"), np.dtype("?")], ids=str)
def test_shapes_survive(bridge: Bridge, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    back = bridge.numpy(bridge.native(array))
    assert (back.dtype, back.shape, back.tobytes()) == (dtype, shape, array.tobytes())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_native_arrays_are_copies(bridge: Bridge, dtype: np.dtype) -> None:
    array = np.ones((3, 4), dtype)
    array.flags.writeable = False
    for view in (array, array.T, array[::2]):
        native = bridge.native(view)
        native *= 2
        assert (bridge.numpy(native).astype("f8") == 2).all()
    assert (array.astype("f8") == 1).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_torch_gradient_is_upstream_times_p_minus_y(dtype: np.dtype) -> None:
    batch = make_batch(dtype)
    returned = bridge_for("torch").call(declared(torch_loss, "torch"), batch)
    assert returned.loss.dtype == dtype
    assert returned.loss.shape == (5,)
    assert returned.gradient is not None
    assert returned.gradient.dtype == dtype
    # A few roundings in the format, and the results are of order one.
    unit = float(ml_dtypes.finfo(dtype).eps)
    assert np.abs(returned.gradient.astype("f8") - true_gradient(batch)).max() < 8 * unit
    assert returned.seconds > 0


def test_upstream_takes_the_dtype_of_a_wider_output() -> None:
    def widened(logits, target, *, reduction="mean"):
        return torch_loss(logits.float(), target, reduction=reduction)

    batch = make_batch(BFLOAT16)
    returned = bridge_for("torch").call(declared(widened, "torch"), batch)
    assert returned.loss.dtype == np.float32
    assert returned.gradient is not None
    assert returned.gradient.dtype == BFLOAT16
    # Computed in float32, so the only visible rounding is the last one, to bfloat16: half a unit in the last place.
    assert (returned.gradient == true_gradient(batch).astype(BFLOAT16)).all()


def test_numpy_gradient_comes_from_the_declared_function() -> None:
    batch = make_batch()
    returned = bridge_for("numpy").call(declared(numpy_loss, "numpy", gradient=numpy_gradient), batch)
    assert returned.loss.tolist() == numpy_loss(batch.logits, batch.target).tolist()
    assert returned.gradient is not None
    assert returned.gradient.tolist() == true_gradient(batch).tolist()


def test_numpy_without_a_gradient_function_has_none() -> None:
    returned = bridge_for("numpy").call(declared(numpy_loss, "numpy"), make_batch())
    assert returned.gradient is None


def test_no_gradient_where_none_is_asked_for(bridge: Bridge) -> None:
    function = torch_loss if bridge.framework == "torch" else numpy_loss
    gradient = {"gradient": numpy_gradient} if bridge.framework == "numpy" else {}
    returned = bridge.call(
        declared(function, bridge.framework, **gradient), make_batch(), gradient=False, reduction="none"
    )
    assert returned.gradient is None
    assert returned.loss.shape == (5,)


@pytest.mark.parametrize(("reduction", "shape"), [("none", (5,)), ("mean", ()), ("sum", ())])
def test_reduction_is_passed_where_it_is_claimed(reduction: str, shape: tuple[int, ...]) -> None:
    batch = make_batch()
    scalar = Batch(batch.loss, batch.logits, batch.target, np.array(-2.5))
    returned = bridge_for("torch").call(
        declared(torch_loss, "torch"), batch if reduction == "none" else scalar, reduction=reduction
    )
    assert returned.loss.shape == shape
    share = {"none": batch.upstream, "mean": np.full(5, -2.5 / 5), "sum": np.full(5, -2.5)}[reduction]
    want = true_gradient(Batch(batch.loss, batch.logits, batch.target, share))
    np.testing.assert_allclose(returned.gradient, want, rtol=0, atol=1e-15)


def test_without_a_claim_the_output_says_what_the_reduction_was() -> None:
    def mean(logits, target):
        return torch_loss(logits, target)

    batch = make_batch()
    found = declared(mean, "torch")
    assert bridge_for("torch").call(found, batch, gradient=False).loss.shape == ()
    first = np.full(5, batch.upstream[0] / 5)  # what a scalar takes of the upstream gradient
    want = true_gradient(Batch(batch.loss, batch.logits, batch.target, first))
    np.testing.assert_allclose(bridge_for("torch").call(found, batch).gradient, want, rtol=0, atol=1e-15)


def test_a_scalar_without_a_claim_takes_the_first_upstream_element_in_numpy_too() -> None:
    def mean(logits, target):
        return numpy_loss(logits, target).mean()

    def slope(logits, target, upstream):
        assert np.shape(upstream) == ()
        return numpy_gradient(logits, target, np.full(len(target), upstream / len(target)))

    batch = make_batch()
    returned = bridge_for("numpy").call(declared(mean, "numpy", gradient=slope), batch)
    want = true_gradient(Batch(batch.loss, batch.logits, batch.target, np.full(5, batch.upstream[0] / 5)))
    np.testing.assert_allclose(returned.gradient, want, rtol=0, atol=1e-15)


def test_a_loss_of_another_length_than_the_upstream_gradient_is_refused() -> None:
    def shorter(logits, target):
        return torch_loss(logits, target, reduction="none")[:3]

    with pytest.raises(ValueError, match=r"the loss has shape \(3,\), but the upstream gradient \(5,\)"):
        bridge_for("torch").call(declared(shorter, "torch"), make_batch())


def test_numpy_reduction_reaches_the_gradient_function_if_it_has_the_parameter() -> None:
    seen = []

    def loss(logits, target, *, reduction="mean"):
        seen.append(reduction)
        return numpy_loss(logits, target) if reduction == "none" else numpy_loss(logits, target).sum()

    def with_reduction(logits, target, upstream, *, reduction="mean"):
        seen.append(reduction)
        return numpy_gradient(logits, target, np.broadcast_to(upstream, len(target)))

    bridge, batch = bridge_for("numpy"), make_batch()
    scalar = Batch(batch.loss, batch.logits, batch.target, np.array(3.0))
    bridge.call(declared(loss, "numpy", gradient=with_reduction), scalar, reduction="sum")
    assert seen == ["sum", "sum"]
    without = declared(loss, "numpy", gradient=numpy_gradient)
    assert bridge.call(without, batch).gradient is not None
    with pytest.raises(TypeError, match="reduction"):
        bridge.call(without, scalar, reduction="sum")


def test_options_arrive_in_the_framework_s_own_arrays() -> None:
    import torch

    seen = {}

    def loss(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0):
        seen.update(weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
        return logits.sum(dim=1)

    weight = np.array([0.5, 2.0], BFLOAT16)
    batch = make_batch(BFLOAT16, classes=2, weight=weight, ignore_index=1, label_smoothing=0.1)
    bridge_for("torch").call(declared(loss, "torch"), batch)
    assert seen["weight"].dtype == torch.bfloat16
    assert seen["weight"].tolist() == [0.5, 2.0]
    assert (seen["ignore_index"], seen["label_smoothing"]) == (1, 0.1)


def test_an_option_that_is_not_claimed_is_refused(bridge: Bridge) -> None:
    def takes_anything(logits, target, **options):
        return logits[:, 0]

    with pytest.raises(TypeError, match="takes_anything does not claim 'weight': leave it out of the batch"):
        bridge.call(declared(takes_anything, bridge.framework), make_batch(weight=np.ones(7)))


def test_the_caller_s_batch_is_out_of_reach(bridge: Bridge) -> None:
    def scribble(logits, target, *, weight=None):
        out = logits[:, 0] * 1
        for array in (logits.detach(), target, weight) if bridge.framework == "torch" else (logits, target, weight):
            array[...] = 0
        return out

    batch = make_batch(weight=np.ones(7))
    before = [array.copy() for array in (batch.logits, batch.target, batch.upstream, batch.options["weight"])]
    bridge.call(declared(scribble, bridge.framework), batch, gradient=False)
    list(stopwatch_for(bridge).laps(declared(scribble, bridge.framework), batch, Task(), 1))
    after = (batch.logits, batch.target, batch.upstream, batch.options["weight"])
    assert all((was == now).all() for was, now in zip(before, after, strict=True))


@pytest.mark.parametrize("value", ["text", None, [1.0, 2.0], (np.zeros(3), np.zeros(3)), 3], ids=repr)
def test_what_is_no_array_is_refused(bridge: Bridge, value: Any) -> None:
    with pytest.raises(TypeError, match=f"returned {type(value).__name__}, not a"):
        bridge.call(declared(lambda logits, target: value, bridge.framework), make_batch())


@pytest.mark.parametrize("dtype", ["i4", "c16", "O"])
def test_a_dtype_that_is_none_of_the_contract_s_is_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="returned an array of dtype"):
        bridge_for("numpy").call(declared(lambda logits, target: np.zeros(5, dtype), "numpy"), make_batch())


def test_numpy_scalars_and_floats_are_arrays() -> None:
    bridge = bridge_for("numpy")
    assert bridge.numpy(np.float32(0.5)).dtype == np.float32
    assert bridge.numpy(0.5).dtype == np.float64
    assert bridge.numpy(np.float32(0.5)).shape == ()


def test_overflow_does_not_warn() -> None:
    returned = bridge_for("numpy").call(
        declared(lambda logits, target: np.exp(logits[:, 0] * 1e6), "numpy"), make_batch(rows=50)
    )
    assert np.isinf(returned.loss).any()


def test_torch_uses_the_threads_that_it_is_given() -> None:
    import torch

    for threads in (2, 1):
        bridge_for("torch", threads=threads)
        assert torch.get_num_threads() == threads


def test_a_device_that_is_not_to_be_had_is_said() -> None:
    with pytest.raises(FrameworkUnavailable, match="xent runs numpy on the CPU only: leave --device cuda out"):
        bridge_for("numpy", device="cuda")


@pytest.mark.parametrize(("built", "said"), [("13.0", "torch sees no CUDA device"), (None, "was built without CUDA")])
def test_torch_without_a_gpu_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, built: str | None, said: str
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    with pytest.raises(FrameworkUnavailable, match=said):
        bridge_for("torch", device="cuda")


def test_triton_is_not_interpreted_where_cuda_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(FrameworkUnavailable, match="TRITON_INTERPRET=1 has Triton's kernels interpreted on the CPU"):
        bridge_for("triton", device="cuda")


@pytest.mark.parametrize("gradient", [False, True])
def test_on_cuda_inputs_go_there_and_results_are_waited_for(monkeypatch: pytest.MonkeyPatch, gradient: bool) -> None:
    # There is no GPU here: what torch is told is written down in its place.
    import torch

    told: list[str] = []
    to = torch.Tensor.to

    def record(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args == ("cuda",):
            told.append(f"to cuda {tuple(tensor.shape)}")
            return tensor
        return to(tensor, *args, **kwargs)

    def loss(logits: torch.Tensor, target: torch.Tensor, *, reduction: str = "mean") -> torch.Tensor:
        told.append("call")
        return torch_loss(logits, target, reduction=reduction)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: told.append("wait"))
    monkeypatch.setattr(torch.Tensor, "to", record)
    bridge = bridge_for("torch", device="cuda")
    batch = make_batch(rows=4)
    bridge.call(declared(loss, "torch"), batch, gradient=gradient)
    rows, classes = batch.logits.shape
    sent = [f"to cuda {shape}" for shape in ((rows, classes), (rows,), (rows,))]
    assert told == [*sent, "call", "wait"]
    assert bridge.device == "cuda"


def test_versions(bridge: Bridge) -> None:
    versions = bridge.versions()
    assert versions["numpy"] == np.__version__
    assert bridge.framework in versions


def test_there_is_a_bridge_per_file() -> None:
    assert set(frameworks()) >= {"numpy", "torch"}
    assert unavailable("numpy") == ""
    with pytest.raises(FrameworkUnavailable, match=r"no bridge for framework 'abacus': choose from .*numpy, .*torch"):
        bridge_for("abacus")


def test_a_missing_framework_is_said_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    assert unavailable("torch") == "torch is not installed: pip install torch"
    with pytest.raises(FrameworkUnavailable, match="pip install torch"):
        bridge_for("torch")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert unavailable("torch") == "torch is not installed: pip install torch"


def test_the_core_imports_no_framework() -> None:
    code = (
        "import sys, harness.discovery, harness.worker, harness.bridges\n"
        "print([m for m in ('torch', 'jax', 'scipy', 'harness.bridges.torch_bridge') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
