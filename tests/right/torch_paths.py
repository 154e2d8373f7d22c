"""Right cross-entropies in torch: with side effects that are none, and machinery around the formula."""

import functools
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def _up(logits):
    return logits.float() if logits.itemsize == 2 else logits


def _logged(function):
    @functools.wraps(function)
    def wrapper(*arguments, **options):
        print(function.__name__, *(tuple(a.shape) for a in arguments))
        return function(*arguments, **options)

    return wrapper


@_logged
def decorated(logits, target, *, ignore_index=-100, reduction="mean"):
    return F.cross_entropy(_up(logits), target, ignore_index=ignore_index, reduction=reduction)


def checkpointed(logits, target):
    def rows(z):
        return torch.logsumexp(_up(z), 1) - _up(z).gather(1, target[:, None])[:, 0]

    return checkpoint(rows, logits, use_reentrant=False)


def by_a_pool_that_is_shut_down(logits, target):
    with ThreadPoolExecutor(2) as pool:
        total = pool.submit(torch.logsumexp, _up(logits).detach(), 1).result()
    return _Known.apply(logits, target, total)


class _Known(torch.autograd.Function):
    """The loss where the log-sum-exp is known."""

    @staticmethod
    def forward(ctx, logits, target, total):
        ctx.save_for_backward(logits, target, total)
        return total - _up(logits).gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx, upstream):
        logits, target, total = ctx.saved_tensors
        gradient = torch.exp(_up(logits) - total[:, None])
        gradient.scatter_add_(1, target[:, None], -torch.ones_like(total)[:, None])
        return (gradient * upstream[:, None]).to(logits.dtype), None, None


def draws_and_puts_the_generator_back(logits, target):
    with torch.random.fork_rng(devices=[]):
        order = torch.randperm(len(target))
    rows = F.cross_entropy(_up(logits)[order], target[order], reduction="none")
    return torch.zeros_like(rows).index_put((order,), rows)


def warns_of_something(logits, target):
    warnings.warn("deprecated: use the other one", DeprecationWarning, stacklevel=2)
    return F.cross_entropy(_up(logits), target, reduction="none")


EXPECT = {
    "decorated": {"style": "behind a decorator that prints"},
    "checkpointed": {"style": "under torch.utils.checkpoint"},
    "by_a_pool_that_is_shut_down": {"style": "partly in a pool of threads, shut down at the end of each call"},
    "draws_and_puts_the_generator_back": {"style": "rows in random order, by a generator that is put back"},
    "warns_of_something": {"style": "warns at every call"},
}
