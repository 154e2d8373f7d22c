from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.families.base import BCE, CROSS_ENTROPY
from harness.formats import DTYPES, named
from harness.logits_file import IGNORED, LogitsFile, LogitsFileError, batch_from_file, read_logits

LOGITS = np.array([[0.5, -1.25, 3.0], [2.0, 0.0, -7.5]], dtype=np.float32)
LABELS = np.array([2, 0])


# Writing the kinds of file, by hand where the tests must be able to lie


def safetensors_bytes(arrays: Mapping[str, np.ndarray], **lies: str) -> bytes:
    names = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"}
    header: dict[str, Any] = {}
    data = b""
    for name, array in arrays.items():
        kind = array.dtype.name
        dtype = names.get(kind) or {"i": "I", "u": "U"}[array.dtype.kind] + str(8 * array.itemsize)
        content = array.tobytes()
        dtype = lies.get(name, dtype)
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def npy_bytes(array: np.ndarray, **keywords: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **keywords)
    return stream.getvalue()


def npy_with_header(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode() + b"\n"
    size = struct.pack("<H", len(text)) if version == (1, 0) else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def write_npz(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def write_compressed(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    np.savez_compressed(folder / "x.NPZ", **arrays)
    return (folder / "x.NPZ.npz").rename(folder / "x.NPZ")


def write_pair(labels_name: str, logits_name: str = "x.npy") -> Callable[[Path, Mapping[str, np.ndarray]], Path]:
    def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
        (folder / logits_name).write_bytes(npy_bytes(arrays["logits"]))
        (folder / labels_name).write_bytes(npy_bytes(arrays["labels"]))
        return folder / logits_name

    return write


def write_folder(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    for name, array in arrays.items():
        (folder / f"{name}.npy").write_bytes(npy_bytes(array))
    return folder


def write_safetensors(folder: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    (folder / "x.safetensors").write_bytes(safetensors_bytes(arrays))
    return folder / "x.safetensors"


WRITERS = {
    "npz": write_npz,
    "compressed": write_compressed,
    "x.labels.npy": write_pair("x.labels.npy"),
    "x_labels.npy": write_pair("x_labels.npy"),
    "logits.npy": write_pair("labels.npy", "logits.npy"),
    "run_logits.npy": write_pair("run_labels.npy", "run_logits.npy"),
    "folder": write_folder,
    "safetensors": write_safetensors,
}


# What can be read


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file(tmp_path, kind):
    path = WRITERS[kind](tmp_path, {"logits": LOGITS, "labels": LABELS})
    for given_path in (path, str(path)):
        file = read_logits(given_path)
        assert np.array_equal(file.logits, LOGITS)
        assert file.labels.tolist() == [2, 0]
        assert (file.dtype, file.logits.dtype, file.labels.dtype) == ("float32", np.float32, np.int64)
        assert (file.nan_rows, file.ignored_rows, file.path) == (0, 0, path)
        assert file.source_name == (tmp_path.name if kind == "folder" else path.stem)


@given(st.data())
def test_what_was_written_is_read(data):
    dtype = data.draw(st.sampled_from(["<f8", "<f4", "<f2", ">f8", ">f4", ">f2", "bfloat16"]))
    kind = "safetensors" if dtype == "bfloat16" else data.draw(st.sampled_from(sorted(WRITERS)))
    if dtype.startswith(">") and kind == "safetensors":
        dtype = "<" + dtype[1:]
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=5))
    wide = np.float16 if dtype == "bfloat16" else np.dtype(dtype)
    logits = data.draw(hnp.arrays(wide, shape))
    if dtype == "bfloat16":
        logits = named("bfloat16").round(logits.astype(np.float64))
    if kind == "folder" and data.draw(st.booleans()):
        logits = np.asfortranarray(logits)
    label_dtype = data.draw(st.sampled_from(["<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1"]))
    label_shape = data.draw(st.sampled_from([shape[:-1], (int(np.prod(shape[:-1])),)]))
    labels = data.draw(hnp.arrays(np.dtype(label_dtype), label_shape, elements=st.integers(0, shape[-1] - 1)))

    with tempfile.TemporaryDirectory() as folder:
        file = read_logits(WRITERS[kind](Path(folder), {"logits": logits, "labels": labels}))

    assert file.logits.shape == (labels.size, shape[-1])
    assert file.logits.dtype.isnative
    np.testing.assert_array_equal(file.logits.astype(np.float64), logits.reshape(-1, shape[-1]).astype(np.float64))
    assert file.dtype == ("bfloat16" if dtype == "bfloat16" else np.dtype(dtype).name)
    assert file.labels.dtype == np.int64
    assert file.labels.tolist() == labels.ravel().tolist()
    assert file.nan_rows == int(np.isnan(logits.astype(np.float64)).reshape(-1, shape[-1]).any(axis=1).sum())


def test_probabilities_and_multi_hot_integers_are_soft_labels(tmp_path):
    soft = np.array([[[0.25, 0.75, 0.0]], [[0.5, 0.25, 2.0]]], dtype=np.float16)
    file = read_logits(write_npz(tmp_path, {"logits": LOGITS.reshape(2, 1, 3), "labels": soft}))
    assert file.labels.dtype == np.float64
    assert file.labels.tolist() == [[0.25, 0.75, 0.0], [0.5, 0.25, 2.0]]
    multi_hot = np.array([[0, 1, 1], [1, 0, 0]], dtype=np.uint8)
    assert (
        read_logits(write_npz(tmp_path, {"logits": LOGITS, "labels": multi_hot})).labels.tolist() == multi_hot.tolist()
    )


def test_rows_of_nan_and_ignored_rows_are_kept_and_counted(tmp_path):
    logits = np.array([[0.0, np.nan], [1.0, -np.inf], [np.inf, 2.0], [np.nan, np.nan]])
    file = read_logits(write_npz(tmp_path, {"logits": logits, "labels": np.array([0, 0, -100, 1])}))
    np.testing.assert_array_equal(file.logits, logits)
    assert (file.nan_rows, file.ignored_rows) == (2, 1)
    assert file.labels.tolist() == [0, 0, IGNORED, 1]


# What is refused, and how it is said


def refused(path: Path) -> str:
    with pytest.raises(LogitsFileError) as caught:
        read_logits(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 600 + 2 * len(str(path))
    return message


WRONG_CONTENT = {
    "a rank too few": ({"logits": LOGITS[0]}, "logits have shape [3], but need at least two axes; reshape"),
    "no rows": ({"logits": LOGITS[:0], "labels": LABELS[:0]}, "logits have shape [0, 3]: there is nothing to judge"),
    "no classes": ({"logits": LOGITS[:, :0]}, "logits have shape [2, 0]: there is nothing to judge"),
    "integer logits": (
        {"logits": np.zeros((2, 3), dtype=np.int32)},
        "logits have dtype int32; save them as one of",
    ),
    "too few labels": (
        {"labels": LABELS[:1]},
        "labels have shape [1], but logits have [2, 3]; give one class",
    ),
    "a column of labels": ({"labels": LABELS[:, None]}, "labels have shape [2, 1], but logits have [2, 3]"),
    "float labels": ({"labels": np.array([2.0, 0.0])}, "labels have dtype float64; save classes as int64"),
    "bool labels": ({"labels": np.array([True, False])}, "labels have dtype bool; save classes as int64"),
    "bool soft labels": ({"labels": np.zeros((2, 3), dtype=bool)}, "labels have dtype bool; save probabilities"),
    "a label too large": (
        {"labels": np.array([0, 3])},
        "the label of row 1 is 3, outside [0, 3); correct it, or",
    ),
    "a negative label": ({"labels": np.array([-1, 0])}, "the label of row 0 is -1, outside [0, 3)"),
    "an unsigned label": (
        {"labels": np.array([0, 2**64 - 100], dtype=np.uint64)},
        "row 1 is 18446744073709551516,",
    ),
    "nothing counts": ({"labels": np.array([-100, -100])}, "every label is -100: no row counts"),
    "a NaN target": (
        {"labels": np.array([[0, 1, 0], [0, np.nan, 1]])},
        "the target of row 1, class 1 is nan;",
    ),
    "an infinite target": ({"labels": np.array([[0, np.inf, 0], [0, 0, 1]])}, "the target of row 0, class 1 is inf"),
    "a negative target": ({"labels": np.array([[0, 1, 0], [1.25, 0, -0.25]])}, "the target of row 1, class 2 is -0.25"),
}


@pytest.mark.parametrize("kind", ["npz", "folder", "safetensors"])
@pytest.mark.parametrize("case", WRONG_CONTENT)
def test_wrong_content_is_refused_with_its_value(tmp_path, kind, case):
    changes, said = WRONG_CONTENT[case]
    path = WRITERS[kind](tmp_path, {"logits": LOGITS, "labels": LABELS, **changes})
    assert said in refused(path)


def test_long_doubles_complex_numbers_and_text_are_refused(tmp_path):
    for values, said in [
        (LOGITS.astype(np.complex64), "dtype complex64 is not one of numbers"),
        (LOGITS.astype("U8"), "dtype <U8 is not one of numbers"),
        (LOGITS.astype([("a", "f4")]), "is not one of numbers"),
        (np.zeros((2, 3), dtype="V2"), "NumPy's files do not hold bfloat16; save it as .safetensors"),
    ]:
        assert said in refused(write_npz(tmp_path, {"logits": values, "labels": LABELS}))
    if np.finfo(np.longdouble).bits > 64:
        message = refused(write_npz(tmp_path, {"logits": LOGITS.astype(np.longdouble), "labels": LABELS}))
        assert "save them as one of float64" in message


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def test_python_objects_are_never_unpickled(tmp_path):
    mark = tmp_path / "unpickled"
    trap = np.array([[Trap(mark)]], dtype=object)
    for write in (write_npz, write_folder):
        path = write(tmp_path, {"logits": trap, "labels": LABELS})
        assert "Python objects, which are never unpickled; save an array of numbers" in refused(path)
    assert not mark.exists()
    np.load(tmp_path / "logits.npy", allow_pickle=True)
    assert mark.exists(), "the trap works"


def test_missing_files_and_endings_say_what_is_wanted(tmp_path):
    assert "there is no such file; check the path" in refused(tmp_path / "absent.npz")
    assert "there is no such file; check the path" in refused(tmp_path / "absent.npy")
    (tmp_path / "x.pt").write_bytes(b"PK")
    assert "its ending '.pt' is none that is known; use .npz, .npy, .safetensors, or a folder" in refused(
        tmp_path / "x.pt"
    )
    (tmp_path / "bare").write_bytes(b"")
    assert "its ending '' is none that is known" in refused(tmp_path / "bare")
    (tmp_path / "x.npy").write_bytes(npy_bytes(LOGITS))
    message = refused(tmp_path / "x.npy")
    assert "its labels are missing; save them beside it as x.labels.npy or x_labels.npy" in message
    (tmp_path / "x.labels.npy").write_bytes(npy_bytes(LABELS))
    (tmp_path / "x_labels.npy").write_bytes(npy_bytes(LABELS))
    assert "its labels could be x.labels.npy or x_labels.npy; keep one of them" in refused(tmp_path / "x.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogitsFileError, match=r"logits\.npy: there is no such file"):
        read_logits(tmp_path / "empty")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(LogitsFileError, match=r"logits\.npy: there is no such file"):
        read_logits(tmp_path / "folder.npz")


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_missing_array_is_named_beside_those_that_are_there(tmp_path, kind):
    path = WRITERS[kind](tmp_path, {"logits": LOGITS, "targets": LABELS, "extra": LABELS})
    assert "no array named 'labels'; it needs logits and labels, and has extra, logits, targets" in refused(path)
    path = WRITERS[kind](tmp_path, {})
    assert "no array named 'logits'; it needs logits and labels, and has none at all" in refused(path)


DAMAGED_NPY = {
    "empty": b"",
    "no magic": b"not an array at all",
    "header cut": npy_bytes(LOGITS)[:40],
    "data cut": npy_bytes(LOGITS)[:-1],
    "data to spare": npy_bytes(LOGITS) + b"\0",
    "absurd shape": npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**15, 3)}"),
    "huge shape": npy_with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 3)}}"),
    "many axes": npy_with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'0,' * 100})}}"),
    "empty and huge": npy_with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 0)}}"),
    "negative shape": npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}", LOGITS.tobytes()),
    "header of code": npy_with_header("__import__('os')"),
    "deep header": npy_with_header("(" * 5000),
    "long header": npy_with_header(" " * 20000 + "{}", version=(2, 0)),
    "header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    "version 3": npy_with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", LOGITS.tobytes(), (3, 0)),
    "version 9": b"\x93NUMPY\x09\x09" + npy_bytes(LOGITS)[8:],
}


@pytest.mark.parametrize("damage", DAMAGED_NPY)
def test_a_damaged_npy_file_is_refused(tmp_path, damage):
    (tmp_path / "x.npy").write_bytes(DAMAGED_NPY[damage])
    (tmp_path / "x_labels.npy").write_bytes(npy_bytes(LABELS))
    message = refused(tmp_path / "x.npy")
    assert "damaged" in message or "version 3" in damage
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("logits.npy", DAMAGED_NPY[damage])
        archive.writestr("labels.npy", npy_bytes(LABELS))
    refused(tmp_path / "x.npz")


def test_a_version_2_header_is_read(tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
    (tmp_path / "x.npy").write_bytes(npy_with_header(header, LOGITS.tobytes(), (2, 0)))
    (tmp_path / "x_labels.npy").write_bytes(npy_bytes(LABELS))
    assert np.array_equal(read_logits(tmp_path / "x.npy").logits, LOGITS)


GOOD_SAFETENSORS = safetensors_bytes({"logits": LOGITS, "labels": LABELS})
DAMAGED_SAFETENSORS = {
    "empty": b"",
    "no header": b"\x10\0\0\0\0\0\0\0",
    "absurd header size": b"\xff" * 8 + GOOD_SAFETENSORS[8:],
    "header beyond the file": struct.pack("<Q", 10**6) + GOOD_SAFETENSORS[8:],
    "no JSON": struct.pack("<Q", 8) + b"{'logits",
    "cut": GOOD_SAFETENSORS[:-3],
    "to spare": GOOD_SAFETENSORS + b"\0\0",
    "absurd shape": GOOD_SAFETENSORS.replace(b"[2, 3]", b"[2, 9]"),
    "overlapping": GOOD_SAFETENSORS.replace(b"[24, 40]", b"[16, 32]"),
}


@pytest.mark.parametrize("damage", DAMAGED_SAFETENSORS)
def test_a_damaged_safetensors_file_is_refused(tmp_path, damage):
    content = DAMAGED_SAFETENSORS[damage]
    assert content != GOOD_SAFETENSORS
    (tmp_path / "x.safetensors").write_bytes(content)
    assert "cannot be read as a .safetensors file" in refused(tmp_path / "x.safetensors")


def test_an_unsupported_safetensors_dtype_is_named(tmp_path):
    content = safetensors_bytes({"logits": LOGITS.view(np.uint8), "labels": LABELS}, logits="F8_E4M3")
    (tmp_path / "x.safetensors").write_bytes(content)
    message = refused(tmp_path / "x.safetensors")
    assert "logits: dtype F8_E4M3 is not supported; save it as one of F64" in message


def test_a_zip_that_lies_or_cannot_be_opened_is_refused(tmp_path):
    good = write_npz(tmp_path, {"logits": LOGITS, "labels": LABELS}).read_bytes()
    for content in (b"", b"PK\x03\x04", good[:100], good[:-10], good.replace(LOGITS.tobytes(), LOGITS[::-1].tobytes())):
        (tmp_path / "x.npz").write_bytes(content)
        assert "cannot be read as a .npz file" in refused(tmp_path / "x.npz")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.sampled_from(["npz", "compressed", "x_labels.npy", "safetensors"]), st.data())
def test_damage_of_any_kind_is_refused_or_harmless(tmp_path, kind, data):
    path = WRITERS[kind](tmp_path, {"logits": LOGITS, "labels": LABELS})
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[start : start + data.draw(st.integers(1, 64))]
    else:
        content[start] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with suppress(LogitsFileError):
        file = read_logits(path)
        assert file.logits.ndim == 2
        assert len(file.logits) == len(file.labels)


def test_a_file_that_cannot_be_opened_gives_the_reason(tmp_path, monkeypatch):
    path = write_safetensors(tmp_path, {"logits": LOGITS, "labels": LABELS})

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert refused(path).endswith("cannot be read: Permission denied")


# Batches from files


def from_arrays(logits: np.ndarray, labels: np.ndarray) -> LogitsFile:
    return LogitsFile(logits, labels, "mine", Path("mine.npz"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_is_the_file_rounded_to_the_dtype(dtype):
    logits = np.random.default_rng(0).standard_normal((20, 7)) * 10
    logits[3] = np.nan
    logits[4, :2] = -np.inf, np.inf
    labels = np.arange(20) % 7
    batch = batch_from_file(from_arrays(logits, labels), CROSS_ENTROPY, dtype, 9)
    assert (batch.family, batch.seed, batch.loss, batch.dtype) == ("file/mine", 9, CROSS_ENTROPY, dtype)
    np.testing.assert_array_equal(*(a.astype(np.float64) for a in (batch.logits, named(dtype).round(logits))))
    assert batch.target.tolist() == labels.tolist()
    assert batch.options == {}
    upstream = batch.upstream.astype(np.float64)
    assert upstream.shape == (20,)
    assert {-1.0, 1.0} == set(np.sign(upstream))
    assert not (np.abs(upstream) == 1).any()
    again = batch_from_file(from_arrays(logits, labels), CROSS_ENTROPY, dtype, 9)
    assert np.array_equal(again.upstream, batch.upstream)
    other = batch_from_file(from_arrays(logits, labels), CROSS_ENTROPY, dtype, 10)
    assert not np.array_equal(other.upstream, batch.upstream)


def test_ignored_rows_become_an_option():
    batch = batch_from_file(from_arrays(LOGITS, np.array([IGNORED, 1])), CROSS_ENTROPY, "float32", 0)
    assert batch.options == {"ignore_index": -100}
    assert batch.target.tolist() == [-100, 1]
    assert np.array_equal(batch.logits, LOGITS)


def test_soft_labels_become_probabilities_of_the_dtype():
    soft = np.array([[0.1, 0.9, 0.0], [0.25, 0.25, 0.5]])
    for loss in (CROSS_ENTROPY, BCE):
        batch = batch_from_file(from_arrays(LOGITS, soft), loss, "float16", 0)
        assert batch.target_kind == "probabilities"
        assert np.array_equal(batch.target, soft.astype(np.float16))
        assert batch.upstream.shape == ((2, 3) if loss == BCE else (2,))


def test_an_elementwise_loss_takes_classes_as_one_hot():
    batch = batch_from_file(from_arrays(LOGITS, LABELS), BCE, "float32", 0)
    assert batch.target.dtype == np.float32
    assert batch.target.tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert batch.options == {}


@pytest.mark.parametrize(
    ("logits", "labels", "loss", "dtype", "said"),
    [
        (
            LOGITS * 1e5,
            LABELS,
            CROSS_ENTROPY,
            "float16",
            "the logit of row 0, class 1 is -125000, beyond float16",
        ),
        (LOGITS.astype(float) * 1e300, LABELS, CROSS_ENTROPY, "float32", "choose another dtype, such as float64"),
        (
            LOGITS,
            LOGITS.clip(0) * 1e5,
            CROSS_ENTROPY,
            "float16",
            "the target of row 0, class 2 is 300000, beyond",
        ),
        (
            LOGITS,
            np.array([0, IGNORED]),
            BCE,
            "float32",
            "the label of row 1 is -100, but binary_cross_entropy",
        ),
        (
            LOGITS,
            LOGITS.clip(0).astype(float),
            BCE,
            "float32",
            "the target of row 0, class 2 is 3.0; binary",
        ),
    ],
)
def test_a_file_that_a_loss_or_dtype_cannot_take_is_refused(logits, labels, loss, dtype, said):
    with pytest.raises(LogitsFileError) as caught:
        batch_from_file(from_arrays(logits, labels), loss, dtype, 0)
    assert said in str(caught.value)
    assert str(caught.value).startswith("mine.npz: ")


@pytest.mark.parametrize(
    ("loss", "dtype", "seed", "said"),
    [
        ("mse", "float32", 0, "unknown loss 'mse'"),
        (BCE, "int8", 0, "unknown dtype 'int8'"),
        (BCE, "float32", -3, "seed -3 is negative"),
    ],
)
def test_unknown_words_are_refused(loss, dtype, seed, said):
    with pytest.raises(ValueError) as caught:
        batch_from_file(from_arrays(LOGITS, LABELS), loss, dtype, seed)
    assert said in str(caught.value)
