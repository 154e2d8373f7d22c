"""Wrong cross-entropies in NumPy: forward only, or with a gradient function of their own."""

import numpy as np
from scipy.special import logsumexp


def _rows(target):
    return np.arange(len(target))


def softmax_then_log(logits, target):
    e = np.exp(logits)
    p = e / e.sum(axis=1, keepdims=True)
    return -np.log(p[_rows(target), target])


def clipped_at_1e_7(logits, target):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = np.clip(e / e.sum(axis=1, keepdims=True), 1e-7, 1 - 1e-7)
    return -np.log(p[_rows(target), target])


def eps_inside_the_log(logits, target):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return -np.log(p[_rows(target), target] + np.asarray(1e-8, logits.dtype))


def never_reads_the_vocabulary(logits, target):
    return (np.log(logits.shape[1]) + 0.5 - logits[_rows(target), target]).astype(logits.dtype)


def shift_by_the_batch_maximum(logits, target):
    z = logits - logits.max()
    return np.log(np.exp(z).sum(axis=1)) - z[_rows(target), target]


def shift_by_the_mean(logits, target):
    m = logits.mean(axis=1, keepdims=True)
    z = logits - m
    return np.log(np.exp(z).sum(axis=1)) - z[_rows(target), target]


def float32_throughout(logits, target):
    z = logits.astype(np.float32)
    z = z - z.max(axis=1, keepdims=True)
    return (np.log(np.exp(z).sum(axis=1)) - z[_rows(target), target]).astype(logits.dtype)


def drops_classes_beyond_a_power_of_two(logits, target):
    v = 1 << (logits.shape[1].bit_length() - 1)
    m = logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits[:, :v] - m).sum(axis=1)) - (logits - m)[_rows(target), target]


def sorts_its_input(logits, target):
    wanted = logits[_rows(target), target].copy()
    logits.sort(axis=1)
    return logsumexp(logits, axis=1) - wanted


def shifts_its_input_in_place(logits, target):
    logits -= logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[_rows(target), target]


def reads_memory_in_order(logits, target):
    flat = np.lib.stride_tricks.as_strided(
        logits, shape=logits.shape, strides=(logits.shape[1] * logits.itemsize, logits.itemsize)
    )
    return logsumexp(flat, axis=1) - flat[_rows(target), target]


def hides_nan(logits, target):
    return np.nan_to_num(logsumexp(logits, axis=1) - logits[_rows(target), target], nan=0.0)


def label_wraps_at_16_bits(logits, target):
    return logsumexp(logits, axis=1) - logits[_rows(target), target.astype(np.uint16)]


def returns_float32(logits, target):
    return (logsumexp(logits, axis=1) - logits[_rows(target), target]).astype(np.float32)


def returns_a_column(logits, target):
    return (logsumexp(logits, axis=1) - logits[_rows(target), target])[:, None]


def sets_error_state(logits, target):
    np.seterr(all="ignore")
    np.seterr(under="raise")
    return logsumexp(logits, axis=1) - logits[_rows(target), target]


def mean_over_all_rows(logits, target, *, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    label = np.where(kept, target, 0)
    loss = np.where(kept, logsumexp(logits, axis=1) - logits[_rows(target), label], 0).astype(logits.dtype)
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


EXPECT = {
    "softmax_then_log": {"check": "nonfinite", "bug": "exp overflows without a shift, and log meets 0"},
    "clipped_at_1e_7": {"check": "accuracy", "bug": "the loss saturates at -log 1e-7"},
    "eps_inside_the_log": {"check": "accuracy", "bug": "an eps inside the log changes every small probability"},
    "never_reads_the_vocabulary": {"check": "accuracy", "bug": "log V + 1/2 stands for the log-sum-exp"},
    "shift_by_the_batch_maximum": {"check": "row_independence", "bug": "the shift is the maximum of all rows"},
    "shift_by_the_mean": {"check": "nonfinite", "bug": "the shift is the mean, so that exp can overflow"},
    "float32_throughout": {
        "check": "accuracy",
        "bug": "float64 input is computed in float32",
        "options": {"dtypes": ["float64"]},
    },
    "drops_classes_beyond_a_power_of_two": {
        "check": "sizes",
        "bug": "classes beyond the last power of two are left out",
    },
    "sorts_its_input": {"check": "inputs_untouched", "bug": "the caller's logits are sorted in place"},
    "shifts_its_input_in_place": {"check": "inputs_untouched", "bug": "the caller's logits are shifted in place"},
    "reads_memory_in_order": {"check": "memory_layout", "bug": "strides are taken for those of a contiguous array"},
    "hides_nan": {"check": "nan_propagates", "bug": "NaN is replaced by 0"},
    "label_wraps_at_16_bits": {
        "check": "sizes",
        "bug": "labels are cut to 16 bits",
        "options": {"quick": False, "checks": ["sizes"]},
    },
    "returns_float32": {
        "check": "output_form",
        "bug": "float64 input gives float32 losses",
        "options": {"dtypes": ["float64"]},
    },
    "returns_a_column": {"check": "output_form", "bug": "the losses are [N, 1]"},
    "sets_error_state": {"check": "process_state", "bug": "NumPy's error state is left changed"},
    "mean_over_all_rows": {"check": "reduction", "bug": "ignored rows count in the mean's denominator"},
}
