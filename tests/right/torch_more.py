"""Right cross-entropies in torch: less usual ways to write them."""

import math
import threading

import torch
import torch.nn.functional as F
from torch import nn


def _up(logits):
    return logits.float() if logits.itemsize == 2 else logits


def as_an_image(logits, target, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"):
    loss = F.cross_entropy(
        _up(logits).t()[None],
        target[None],
        weight=None if weight is None else _up(weight),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return loss[0] if reduction == "none" else loss


def powers_of_two(logits, target):
    z = _up(logits)
    top = z.amax(1, keepdim=True).detach()
    total = torch.exp2((z - top) * math.log2(math.e)).sum(1)
    return torch.log2(total) * math.log(2.0) + (top - z.gather(1, target[:, None]))[:, 0]


def in_place_on_a_copy(logits, target):
    z = _up(logits).clone()
    z -= z.detach().amax(1, keepdim=True)
    return z.exp().sum(1).log() - z.gather(1, target[:, None])[:, 0]


def rows_that_count(logits, target, *, ignore_index=-100, reduction="mean"):
    kept = target != ignore_index
    z, y = _up(logits)[kept], target[kept]
    rows = -torch.log_softmax(z, 1).gather(1, y[:, None])[:, 0]
    if reduction == "none":
        return torch.zeros(len(target), dtype=rows.dtype).masked_scatter(kept, rows)
    return rows.sum() if reduction == "sum" else rows.mean()


def zero_where_nothing_counts(logits, target, *, ignore_index=-100, reduction="mean"):
    rows = F.cross_entropy(_up(logits), target, ignore_index=ignore_index, reduction="none")
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / (target != ignore_index).sum().clamp(min=1)


class LazyModule(nn.Module):
    """Makes what it needs at its first call, and more of it when a later one is larger."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction, self.rows = reduction, None

    def forward(self, logits, target):
        if self.rows is None or len(self.rows) < len(target):
            self.rows = torch.arange(len(target))
        loss = -torch.log_softmax(_up(logits), 1)[self.rows[: len(target)], target]
        return loss if self.reduction == "none" else getattr(loss, self.reduction)()


_columns = {}


def cached_columns(logits, target):
    classes = logits.shape[1]
    columns = _columns.setdefault(classes, torch.arange(classes))
    z = _up(logits)
    top = z.amax(1, keepdim=True).detach()
    own = torch.where(columns == target[:, None], z - top, 0.0).sum(1)
    return (z - top).exp().sum(1).log() - own


def two_threads(logits, target):
    z, half, parts = _up(logits), len(target) // 2, {}

    def work(name, rows):
        parts[name] = F.cross_entropy(z[rows], target[rows], reduction="none")

    threads = [threading.Thread(target=work, args=job) for job in (("a", slice(half)), ("b", slice(half, None)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.cat([parts["a"], parts["b"]])


EXPECT = {
    "as_an_image": {"style": "the rows as the pixels of one image"},
    "powers_of_two": {"style": "exp2 and log2, as on a GPU"},
    "in_place_on_a_copy": {"style": "in place, on a copy of its own"},
    "rows_that_count": {"style": "computes only the rows that are not ignored"},
    "zero_where_nothing_counts": {"style": "the mean over nothing is 0", "deviation": "all_ignored"},
    "LazyModule": {"style": "nn.Module class with state made at the first call"},
    "cached_columns": {"style": "a cache of constants in the module"},
    "two_threads": {"style": "threads of its own"},
}
