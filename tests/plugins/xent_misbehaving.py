"""Implementations that go wrong in every way that is not a matter of accuracy, and some right ones beside them."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from harness.declaration import implementation


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def losses(logits, target):
    top = logits.max(axis=1)
    return (top - logits[np.arange(len(target)), target]) + np.log(np.exp(logits - top[:, None]).sum(axis=1))


def slope(logits, target, upstream):
    p = softmax(logits)
    p[np.arange(len(target)), target] -= 1
    return p * upstream[:, None]


def mean_slope(logits, target, upstream):
    assert np.shape(upstream) == ()
    return slope(logits, target, np.full(len(target), upstream / len(target), logits.dtype))


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_raises(logits, target):
    raise RuntimeError("no\nthank you [bold]")


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_hangs(logits, target):
    time.sleep(1000)


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_dies(logits, target):
    os.kill(os.getpid(), signal.SIGKILL)


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_exits(logits, target):
    os._exit(0)


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_returns_nothing(logits, target):
    return None


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_shape(logits, target):
    return losses(logits, target)[:, None]


@implementation(framework="numpy", loss="cross_entropy", grade="absolute", gradient=lambda z, y, u: slope(z, y, u).T)
def bad_gradient_shape(logits, target):
    return losses(logits, target)


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_dtype(logits, target):
    return losses(logits, target).astype(np.float16)


@implementation(framework="numpy", loss="cross_entropy", grade="absolute", gradient=slope)
def bad_nan(logits, target):
    return losses(logits, target) * np.nan


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_sum(logits, target):
    """Claims nothing and returns a scalar, which is to be the mean."""
    return losses(logits, target).sum()


@implementation(framework="numpy", loss="cross_entropy", grade="absolute")
def bad_scalar(logits, target, *, reduction="mean"):
    """Claims `reduction`, and always returns the mean."""
    return losses(logits, target).mean()


@implementation(framework="numpy", loss="cross_entropy", grade="absolute", gradient=mean_slope)
def good_mean(logits, target):
    return losses(logits, target).mean()


@implementation(framework="numpy", loss="cross_entropy", grade="absolute", gradient=slope)
def good_rows(logits, target):
    return losses(logits, target)
