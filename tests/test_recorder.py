"""The recorder: what it keeps of a training loop, for every framework, and what it refuses, when and how."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from harness.formats import DTYPES, named
from harness.logits_file import batch_from_file, read_logits
from harness.recorder import Recorder, RecorderError
from harness.step_rows import chosen_rows

V = 5
LOGITS = np.random.default_rng(0).standard_normal((6, V)).astype(np.float32) * 10
LABELS = np.arange(6) % V


def as_torch(array: np.ndarray) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(array)


def as_jax(array: np.ndarray) -> Any:
    with jax.enable_x64(True):
        return jnp.asarray(array)


FRAMEWORKS = {"numpy": np.asarray, "torch": as_torch, "jax": as_jax}


def metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "np") as file:
        return dict(file.metadata())


def refused(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(RecorderError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


# ------------------------------------------------------------------------------------------------------- what it keeps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_logits_keep_their_dtype_and_bits_and_are_read_back(tmp_path, framework, dtype):
    convert = FRAMEWORKS[framework]
    logits = LOGITS.astype(named(dtype).dtype)
    logits[0, :4] = np.nan, np.inf, -np.inf, -0.0
    logits[1, :2] = named(dtype).smallest_subnormal, named(dtype).largest
    path = tmp_path / "run.safetensors"
    with Recorder(path, steps=range(0, 30, 10)) as record:
        for step in range(30):
            record(step, convert(logits), convert(LABELS))
    assert record.recorded == 18
    file = read_logits(path)
    assert file.dtype == dtype
    bits = f"u{logits.itemsize}"
    known = ~np.isnan(logits)
    for kept in np.split(file.logits, 3):
        assert np.array_equal(kept.view(bits)[known], logits.view(bits)[known])
        assert np.isnan(kept[~known]).all()
    assert file.labels.tolist() == LABELS.tolist() * 3
    assert load_file(path)["step"].tolist() == [0] * 6 + [10] * 6 + [20] * 6
    assert load_file(path)["step"].dtype == np.int64
    batch = batch_from_file(file, "cross_entropy", dtype, 0)
    assert batch.logits.shape == (18, V)


def test_metadata_say_what_was_kept_and_by_whom(tmp_path):
    Recorder(tmp_path / "run.safetensors", steps=[3], rows=4, seed=9)(3, LOGITS, LABELS)
    found = metadata(tmp_path / "run.safetensors")
    assert found.pop("version")[0].isdigit()
    assert found == {"dtype": "float32", "classes": "5", "rows": "4", "seed": "9"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(list(FRAMEWORKS)), st.data())
def test_rows_are_distinct_ones_that_count_with_their_labels(tmp_path, framework, data):
    leading = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    total = int(np.prod(leading))
    room = data.draw(st.integers(1, 10))
    # Each row is told by its first logit.
    logits = np.concatenate([np.arange(total)[:, None], np.zeros((total, V - 1))], axis=1).reshape(*leading, V)
    values = st.sampled_from([-7, *range(V)])
    labels = np.array(data.draw(st.lists(values, min_size=total, max_size=total)), dtype=np.int64).reshape(leading)
    convert = FRAMEWORKS[framework]
    flat = data.draw(st.booleans())
    record = Recorder(tmp_path / "run.safetensors", steps=[2], rows=room, ignore_index=-7)
    record(2, convert(logits), convert(labels.reshape(-1) if flat else labels))
    count = int((labels != -7).sum())
    assert record.recorded == min(room, count)
    if record.recorded:
        file = read_logits(record.path)
        rows = file.logits[:, 0].astype(int)
        assert np.array_equal(rows, np.unique(rows))
        assert np.array_equal(file.labels, labels.reshape(-1)[rows])
        assert (file.labels != -7).all()


def test_rows_depend_on_seed_and_step_alone(tmp_path):
    logits = np.arange(1000.0)[:, None] * [1, 0]
    labels = np.zeros(1000, dtype=np.int64)

    def rows(seed: int, steps: list[int], convert: Any = np.asarray) -> dict[int, list[float]]:
        record = Recorder(tmp_path / "run.safetensors", steps=steps, rows=20, seed=seed)
        for step in range(3):
            record(step, convert(logits), convert(labels))
        arrays = load_file(record.path)
        return {step: arrays["logits"][arrays["step"] == step, 0].tolist() for step in steps}

    first = rows(0, [0, 1, 2])
    assert first == rows(0, [0, 1, 2], as_torch) == rows(0, [0, 1, 2], as_jax)
    assert first[2] == rows(0, [2])[2]
    assert first[0] != first[1]
    assert first != rows(1, [0, 1, 2])
    assert all(len(kept) == 20 and kept == sorted(kept) for kept in first.values())


def test_the_same_run_gives_the_same_bytes(tmp_path):
    contents = set()
    for name in "abcdefgh":
        Recorder(tmp_path / f"{name}.safetensors", steps=[0])(0, LOGITS, LABELS)
        contents.add((tmp_path / f"{name}.safetensors").read_bytes())
    assert len(contents) == 1


def test_micro_batches_fill_a_step_up_and_no_further(tmp_path):
    record = Recorder(tmp_path / "run.safetensors", steps=[0, 1], rows=15)
    for part in range(4):
        assert record.wants(0) == (part < 3)
        record(0, LOGITS + 100 * part, LABELS)
    arrays = load_file(record.path)
    assert arrays["step"].tolist() == [0] * 15
    assert np.round(arrays["logits"][:, 0] / 100).astype(int).tolist() == [0] * 6 + [1] * 6 + [2] * 3
    assert record.wants(1)
    assert not record.wants(2)


@pytest.mark.parametrize("kind", ["float64", "float32", "bfloat16", "int64"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_probabilities_are_kept_and_whole_ones_made_floats(tmp_path, framework, kind):
    soft = np.zeros((2, 3, V), dtype=np.int64 if kind == "int64" else named(kind).dtype)
    soft[..., 1], soft[1, 1, 1], soft[1, 1, 2] = 1, 0, 1
    convert = FRAMEWORKS[framework]
    record = Recorder(tmp_path / "run.safetensors", steps=[0])
    record(0, convert(LOGITS.reshape(2, 3, V)), convert(soft))
    assert load_file(record.path)["labels"].dtype.name == ("float32" if kind == "int64" else kind)
    file = read_logits(record.path)
    assert np.array_equal(file.labels, soft.reshape(6, V).astype(np.float64))
    assert np.array_equal(file.logits, LOGITS)


def test_what_is_recorded_is_a_copy(tmp_path):
    for convert in (np.array, torch.tensor):
        logits, labels = convert(LOGITS), convert(LABELS)
        record = Recorder(tmp_path / "run.safetensors", steps=[0, 1])
        record(0, logits, labels)
        logits *= 0
        labels *= 0
        record(1, logits, labels)
        arrays = load_file(record.path)
        assert np.array_equal(arrays["logits"], np.concatenate([LOGITS, 0 * LOGITS]))
        assert arrays["labels"].tolist() == [*LABELS.tolist(), *[0] * 6]


def test_read_only_strided_and_foreign_endian_arrays_and_lists_are_taken(tmp_path):
    frozen = LOGITS.astype(">f4")
    frozen.flags.writeable = False
    twice = np.repeat(LOGITS, 2, axis=0)
    for logits, labels in [
        (frozen, LABELS.astype(">i2")),
        (twice[::2], LABELS.astype(np.uint8)),
        (np.asfortranarray(LOGITS), LABELS.tolist()),
        (torch.from_numpy(np.ascontiguousarray(LOGITS.T)).T, torch.from_numpy(LABELS.astype(np.int32))),
    ]:
        record = Recorder(tmp_path / "run.safetensors", steps=[0])
        record(0, logits, labels)
        file = read_logits(record.path)
        assert np.array_equal(file.logits, LOGITS)
        assert file.labels.tolist() == LABELS.tolist()
    record = Recorder(tmp_path / "run.safetensors", steps=[0])
    record(0, LOGITS.tolist(), LABELS.tolist())
    assert read_logits(record.path).dtype == "float64"


# ------------------------------------------------------------------------------------------------------------ in a loop


def test_a_torch_loop_is_not_disturbed(tmp_path):
    def train(record: Any) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, V)
        for step in range(4):
            logits = model(torch.randn(8, 3))
            record(step, logits, torch.arange(8) % V)
            assert logits.requires_grad
            torch.nn.functional.cross_entropy(logits, torch.arange(8) % V).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= parameter.grad
        return model.weight

    with Recorder(tmp_path / "run.safetensors", steps=range(4)) as record:
        recorded = train(record)
    assert torch.equal(recorded, train(lambda step, logits, labels: None))
    assert record.recorded == 32


def test_steps_may_be_scalars_of_a_framework(tmp_path):
    for step in (np.int32(3), np.array(3), torch.tensor(3), jnp.asarray(3)):
        record = Recorder(tmp_path / "run.safetensors", steps=[3])
        assert record.wants(step)
        record(step, LOGITS, LABELS)
        assert load_file(record.path)["step"].tolist() == [3] * 6
        record(step + 1, LOGITS, LABELS)
        assert record.recorded == 6


@pytest.mark.parametrize("steps", [range(10, 0, -5), [5, 10, 5], {5, 10}, np.array([10, 5]), (10, np.int64(5))])
def test_steps_may_be_any_collection(tmp_path, steps):
    record = Recorder(tmp_path / "run.safetensors", steps=steps)
    for step in range(20):
        record(step, LOGITS, LABELS)
    assert np.unique(load_file(record.path)["step"]).tolist() == [5, 10]


@pytest.mark.parametrize("transform", ["jit", "grad", "vmap"])
@pytest.mark.parametrize("step", [0, 1])
def test_arrays_that_jax_traces_are_refused_whatever_the_step(tmp_path, transform, step):
    record = Recorder(tmp_path / "run.safetensors", steps=[0])

    def loss(logits: Any, labels: Any) -> Any:
        record(step, logits, labels)
        return logits.sum()

    message = refused(getattr(jax, transform)(loss), jnp.asarray(LOGITS), jnp.asarray(LABELS))
    assert message.startswith("logits is traced by JAX (jit, grad or vmap) and holds no numbers yet; return the logits")
    assert "jax.debug.callback(record, step, logits, labels)" in message
    assert not record.path.exists()


def test_a_traced_step_or_label_is_refused_too(tmp_path):
    record = Recorder(tmp_path / "run.safetensors", steps=[0])
    assert "step is traced by JAX" in refused(jax.jit(lambda step: record(step, LOGITS, LABELS)), 0)
    assert "step is traced by JAX" in refused(jax.jit(lambda step: record.wants(step)), 0)
    assert "labels is traced by JAX" in refused(jax.jit(lambda labels: record(0, LOGITS, labels)), LABELS)


def test_a_debug_callback_records_from_inside_of_jit(tmp_path):
    record = Recorder(tmp_path / "run.safetensors", steps=range(0, 6, 2))

    @jax.jit
    def step_of_training(step: Any, logits: Any, labels: Any) -> Any:
        jax.debug.callback(record, step, logits, labels)
        return logits.sum()

    for step in range(6):
        step_of_training(step, jnp.asarray(LOGITS, dtype=jnp.bfloat16) + step, LABELS)
    jax.effects_barrier()
    arrays = load_file(record.path)
    assert np.unique(arrays["step"], return_counts=True)[1].tolist() == [6, 6, 6]
    want = np.asarray(jnp.asarray(LOGITS, dtype=jnp.bfloat16) + 4)
    assert np.array_equal(arrays["logits"][arrays["step"] == 4], want)


def test_torch_transforms_without_numbers_are_refused(tmp_path):
    record = Recorder(tmp_path / "run.safetensors", steps=[0])

    def loss(logits: Any) -> Any:
        record(0, logits, LABELS)
        return logits.sum()

    for call in (torch.func.grad(loss), lambda logits: loss(logits.to("meta"))):
        message = refused(call, torch.from_numpy(LOGITS))
        assert message.startswith("step 0: logits of type Tensor cannot be read (")
        assert message.endswith("record numbers, outside of functions that a framework transforms or compiles")


def test_a_compiled_torch_function_records_its_numbers(tmp_path):
    record = Recorder(tmp_path / "run.safetensors", steps=[0])

    @torch.compile(backend="eager")
    def loss(logits: Any, labels: Any) -> Any:
        record(0, logits * 2, labels)
        return logits.sum()

    loss(torch.from_numpy(LOGITS), torch.from_numpy(LABELS))
    assert np.array_equal(read_logits(record.path).logits, LOGITS * 2)


# ------------------------------------------------------------------------------------------------------------- the file


def test_the_file_is_whole_after_every_step_and_an_old_one_stays_until_the_first(tmp_path):
    path = tmp_path / "run.safetensors"
    path.write_bytes(b"an earlier one")
    record = Recorder(path, steps=range(1, 4))
    record(0, LOGITS, LABELS)
    assert path.read_bytes() == b"an earlier one"
    for step in range(1, 4):
        record(step, LOGITS, LABELS)
        assert len(read_logits(path).logits) == 6 * step
        assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]


def test_a_killed_run_leaves_a_readable_file(tmp_path):
    script = """
        import os, signal
        import numpy as np
        from harness.recorder import Recorder

        with Recorder("run.safetensors", steps=range(100)) as record:
            for step in range(100):
                if step == 7:
                    os.kill(os.getpid(), signal.SIGKILL)
                record(step, np.ones((4, 3), dtype=np.float16), [0, 1, 2, 0])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(read_logits(tmp_path / "run.safetensors").logits) == 28


def test_the_path_does_not_move_with_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    record = Recorder("run.safetensors", steps=[0])
    monkeypatch.chdir(tmp_path / "elsewhere")
    record(0, LOGITS, LABELS)
    assert record.path == tmp_path / "run.safetensors"
    assert record.path.exists()


def test_memory_is_a_small_multiple_of_what_is_kept(tmp_path):
    logits, labels = np.zeros((64, 4096), dtype=np.float32), np.zeros(64, dtype=np.int64)
    record = Recorder(tmp_path / "run.safetensors", steps=range(12), rows=32)
    kept = 12 * 32 * 4096 * 4
    tracemalloc.start()
    try:
        for step in range(12):
            record(step, logits, labels)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept <= held < 1.1 * kept
    assert peak < 3.3 * kept
    assert record.path.stat().st_size < 1.02 * kept


def test_closing_ends_recording_and_says_when_there_was_nothing(tmp_path):
    path = tmp_path / "run.safetensors"
    with Recorder(path, steps=[0]) as record:
        record(0, LOGITS, LABELS)
    record.close()
    said = refused(record, 0, LOGITS, LABELS)
    assert said == "run.safetensors: the recorder is closed; record before close(), or inside its with"
    told = r"run\.safetensors: nothing was recorded: none of its 2 steps \(the first is 700\) came with a row"
    with pytest.warns(UserWarning, match=told), Recorder(path, steps=[800, 700]) as record:
        record(0, LOGITS, LABELS)
    with warnings.catch_warnings(action="error"), pytest.raises(KeyError), Recorder(path, steps=[700]):
        raise KeyError


def test_a_step_of_ignored_rows_alone_is_passed_over(tmp_path):
    record = Recorder(tmp_path / "run.safetensors", steps=[0, 1])
    record(0, LOGITS, np.full(6, -100))
    assert not record.path.exists()
    record(1, LOGITS, np.array([-100, 1, -100, -100, 2, -100]))
    assert read_logits(record.path).labels.tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------- what is refused, how


CONSTRUCTIONS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "another ending": ("run.npz", {}, "run.npz: its ending is '.npz'; name it run.safetensors"),
    "no folder": ("absent/run.safetensors", {}, "absent; make it first"),
    "a folder": ("folder.safetensors", {}, "cannot be written: it is a folder"),
    "a file as folder": ("file/run.safetensors", {}, "cannot be written: there is no folder"),
    "one number as steps": ("x.safetensors", {"steps": 50}, "steps is 50; give the steps to record, such as range"),
    "endless steps": (
        "x.safetensors",
        {"steps": iter(range(3))},
        "give the steps to record, such as range(0, 500, 50)",
    ),
    "no steps": ("x.safetensors", {"steps": range(5, 5)}, "steps is range(5, 5): nothing would be recorded"),
    "fractions": ("x.safetensors", {"steps": [0.5]}, "steps is [0.5]: 'float' object cannot be interpreted"),
    "negative steps": ("x.safetensors", {"steps": [3, -2]}, "steps holds -2; steps are counted from 0"),
    "a negative range": ("x.safetensors", {"steps": range(10**12, -10, -7)}, "steps holds -"),
    "no rows": ("x.safetensors", {"rows": 0}, "rows = 0, seed = 0: at least one row"),
    "negative seed": ("x.safetensors", {"seed": -1}, "seed = -1: at least one row, and a seed that is not negative"),
}


@pytest.mark.parametrize("case", CONSTRUCTIONS)
def test_what_could_never_be_recorded_is_refused_at_construction(tmp_path, case):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").touch()
    name, options, said = CONSTRUCTIONS[case]
    assert said in refused(Recorder, tmp_path / name, **{"steps": [0], **options})


def test_an_unwritable_folder_is_refused_at_construction(tmp_path, monkeypatch):
    def deny(*arguments: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", deny)
    message = refused(Recorder, tmp_path / "run.safetensors", steps=[0])
    assert message.endswith("run.safetensors: cannot be written: Permission denied; choose another folder")


def test_a_disk_that_fills_up_is_named_and_keeps_the_last_whole_file(tmp_path, monkeypatch):
    record = Recorder(tmp_path / "run.safetensors", steps=[0, 1])
    record(0, LOGITS, LABELS)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert refused(record, 1, LOGITS, LABELS).endswith("cannot be written: No space left on device")
    assert [file.name for file in tmp_path.iterdir()] == ["run.safetensors"]
    assert len(read_logits(record.path).logits) == 6


SOFT = np.full((6, V), 0.2)
CALLS: dict[str, tuple[Any, Any, str]] = {
    "a scalar": (np.float32(1), LABELS, "logits have shape []; give [..., V], the classes last"),
    "no classes": (LOGITS[:, :0], LABELS, "logits have shape [6, 0]; give [..., V], the classes last"),
    "too few labels": (LOGITS, LABELS[:5], "labels have shape [5], but logits have [6, 5]; give one class for each"),
    "a column of labels": (LOGITS, LABELS[:, None], "labels have shape [6, 1], but logits have [6, 5]"),
    "classes in axis 1": (
        np.zeros((2, V, 3)),
        np.zeros((2, 3), dtype=int),
        "move the classes from axis 1 to the last: logits.movedim(1, -1)",
    ),
    "integer logits": (LOGITS.astype(int), LABELS, "logits have dtype int64; record them as one of float64, float32"),
    "eighth floats": (LOGITS.astype(ml_dtypes.float8_e4m3fn), LABELS, "logits have dtype float8_e4m3fn; record them"),
    "float labels": (LOGITS, LABELS * 1.0, "labels have dtype float64; give classes as integers, or probabilities"),
    "bool labels": (LOGITS, LABELS > 1, "labels have dtype bool; give classes as integers"),
    "bool one-hot": (LOGITS, SOFT > 1, "labels have dtype bool; give probabilities as floating point"),
    "a label too large": (LOGITS, LABELS + 1, "the label of row 4 is 5, outside [0, 5); name the label of rows that"),
    "another ignored label": (LOGITS, LABELS - 1, "the label of row 0 is -1, outside [0, 5); name the label of rows"),
    "a huge label": (LOGITS, np.uint64([0, 1, 2, 2**64 - 100, 3, 4]), "the label of row 3 is 18446744073709551516,"),
    "a NaN probability": (LOGITS, SOFT * np.nan, "labels hold nan; probabilities are finite and not negative"),
    "a negative one": (LOGITS, -SOFT, "labels hold -0.2; probabilities are finite and not negative"),
    "a ragged list": ([[1.0], [1.0, 2.0]], [0, 0], "cannot be read (ValueError: "),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_cannot_be_recorded_is_refused_with_its_value(tmp_path, case):
    logits, labels, said = CALLS[case]
    record = Recorder(tmp_path / "run.safetensors", steps=[40])
    message = refused(record, 40, logits, labels)
    assert message.startswith("step 40: ")
    assert said in message
    assert not record.path.exists()
    record(40, LOGITS, LABELS)
    assert record.recorded == 6


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        (
            LOGITS.astype(np.float16),
            LABELS,
            "logits are float16 with 5 classes and labels classes, but logits are float32",
        ),
        (
            LOGITS[:, :4],
            LABELS % 4,
            "logits are float32 with 4 classes and labels classes, but logits are float32 with 5",
        ),
        (LOGITS, SOFT, "labels float64 probabilities, but logits are float32 with 5 classes and labels classes"),
    ],
)
def test_another_kind_than_in_the_steps_before_is_refused(tmp_path, logits, labels, said):
    record = Recorder(tmp_path / "run.safetensors", steps=[0, 1, 2])
    record(0, LOGITS, LABELS)
    message = refused(record, 1, logits, labels)
    assert message.startswith("step 1: ")
    assert said in message
    assert message.endswith("in the steps before; one file holds one kind: use a recorder for each")
    record(2, LOGITS, LABELS)
    assert np.unique(load_file(record.path)["step"]).tolist() == [0, 2]


def test_a_recording_that_could_grow_too_large_is_refused_at_its_first_step(tmp_path):
    record = Recorder(tmp_path / "run.safetensors", steps=range(0, 10**9, 10), max_bytes=10**6)
    said = "100000000 steps of 256 rows of 36 bytes could grow to 921,600,000,000 bytes, over max_bytes = 1,000,000"
    assert said in refused(record, 0, LOGITS, LABELS)
    # 36 bytes a row: five float32 logits, a label and a step.
    fits = 36 * 10 * 4
    Recorder(tmp_path / "run.safetensors", steps=range(4), rows=10, max_bytes=fits)(0, LOGITS, LABELS)
    over = Recorder(tmp_path / "run.safetensors", steps=range(4), rows=10, max_bytes=fits - 1)
    assert "over max_bytes = 1,439; give fewer steps, fewer rows" in refused(over, 0, LOGITS, LABELS)


@pytest.mark.parametrize("step", [0.0, "0", None, np.array([1, 2])])
def test_a_step_that_is_no_number_is_refused(tmp_path, step):
    record = Recorder(tmp_path / "run.safetensors", steps=[0])
    assert "count the steps in whole numbers" in refused(record, step, LOGITS, LABELS)


def test_recording_imports_no_framework(tmp_path):
    code = """
        import json, sys
        import numpy as np
        from harness.recorder import Recorder

        Recorder("run.safetensors", steps=[0])(0, np.ones((2, 3)), [0, 1])
        print(json.dumps(sorted({"torch", "jax", "scipy", "ml_dtypes"} & set(sys.modules))))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_huge_tensor_is_indexed_and_not_copied():
    """Shifted logits as a language model's, 16 TiB that no machine could copy: reshaping them to rows would."""
    logits = torch.arange(1024.0)[:, None, None].expand(1024, 1025, 2**22)[:, 1:]
    with pytest.raises(RuntimeError):
        logits.reshape(-1, 2**22)
    labels = torch.arange(2**20).reshape(1024, 1024)
    kept = chosen_rows(np.random.default_rng(0), 2, logits, labels, -100)
    assert kept["logits"].shape == (2, 2**22)
    assert kept["logits"][:, -1].tolist() == (kept["labels"] // 1024).tolist()
