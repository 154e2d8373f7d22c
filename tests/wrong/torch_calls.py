"""Wrong cross-entropies in torch: right once, wrong over calls, or in what they do to the process."""

import random
import warnings

import torch
import torch.nn.functional as F

_BY_SHAPE = {}
_BY_ADDRESS = {}
_BY_OBJECT = {}
_BY_CONTENT = {}
_KEPT = []
_CALLS = [0]
_SHUFFLE = random.Random(7)


class _Cached(torch.autograd.Function):
    """Loss and gradient come from a cache where the key is known."""

    @staticmethod
    def forward(ctx, logits, target, cache, key):
        if key not in cache:
            logp = torch.log_softmax(logits, 1)
            gradient = torch.exp(logp)
            gradient[torch.arange(len(target)), target] -= 1
            cache[key] = -logp.gather(1, target[:, None])[:, 0], gradient
        loss, gradient = cache[key]
        ctx.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None], None, None, None


def cached_by_shape(logits, target):
    return _Cached.apply(logits, target, _BY_SHAPE, (logits.shape, logits.dtype))


def cached_by_address(logits, target):
    key = (logits.data_ptr(), target.data_ptr(), logits.shape, logits.stride(), logits.dtype)
    return _Cached.apply(logits, target, _BY_ADDRESS, key)


def cached_by_identity(logits, target):
    return _Cached.apply(logits, target, _BY_OBJECT, (id(target), logits.shape, logits.stride(), logits.dtype))


def cached_by_sum(logits, target):
    key = (logits.double().nan_to_num().sum().item(), target.sum().item(), logits.shape, logits.dtype)
    return _Cached.apply(logits, target, _BY_CONTENT, key)


def wrong_after_100_calls(logits, target):
    _CALLS[0] += 1
    loss = F.cross_entropy(logits, target, reduction="none")
    return loss if _CALLS[0] <= 100 else loss * 1.01


def order_of_summation_drawn(logits, target):
    order = list(range(logits.shape[1]))
    _SHUFFLE.shuffle(order)
    shifted = logits - logits.detach().amax(1, keepdim=True)
    total = torch.exp(shifted[:, order]).sum(1)
    return torch.log(total) - shifted.gather(1, target[:, None])[:, 0]


def sets_default_dtype(logits, target):
    torch.set_default_dtype(torch.float64)
    return F.cross_entropy(logits, target, reduction="none")


def seeds_the_generator(logits, target):
    torch.manual_seed(0)
    return F.cross_entropy(logits, target, reduction="none")


def sets_thread_count(logits, target):
    torch.set_num_threads(2)
    return F.cross_entropy(logits, target, reduction="none")


def turns_gradients_off(logits, target):
    loss = F.cross_entropy(logits, target, reduction="none")
    torch.set_grad_enabled(False)
    return loss


def silences_warnings(logits, target):
    warnings.simplefilter("ignore")
    return F.cross_entropy(logits, target, reduction="none")


def flushes_denormals(logits, target):
    torch.set_flush_denormal(True)
    return F.cross_entropy(logits, target, reduction="none")


def keeps_every_input(logits, target):
    _KEPT.append(logits.detach().clone())
    return F.cross_entropy(logits, target, reduction="none")


def loop_over_classes(logits, target):
    m = logits.detach().amax(1)
    total = torch.zeros_like(m)
    for j in range(logits.shape[1]):
        total = total + torch.exp(logits[:, j] - m)
    return m + torch.log(total) - logits.gather(1, target[:, None])[:, 0]


def label_clamped(logits, target):
    return F.cross_entropy(logits, target.clamp(0, logits.shape[1] - 1), reduction="none")


EXPECT = {
    "cached_by_shape": {"check": "no_replay", "bug": "results are cached by shape"},
    "cached_by_address": {"check": "no_replay", "bug": "results are cached by the address of the data"},
    "cached_by_identity": {"check": "no_replay", "bug": "results are cached by the identity of the target tensor"},
    "cached_by_sum": {"check": "no_replay", "bug": "results are cached by the sum of logits and of labels"},
    "wrong_after_100_calls": {
        "check": "late_calls",
        "bug": "the first 100 calls are right and later ones 1 % off",
        "options": {"quick": False},
    },
    "order_of_summation_drawn": {
        "check": "deterministic",
        "bug": "terms are summed in an order drawn at every call",
        "source": "pytorch/pytorch#17350",
    },
    "sets_default_dtype": {"check": "process_state", "bug": "the default dtype is set to float64"},
    "seeds_the_generator": {"check": "process_state", "bug": "torch's generator is seeded at every call"},
    "sets_thread_count": {"check": "process_state", "bug": "the number of threads is set"},
    "turns_gradients_off": {"check": "process_state", "bug": "gradients are turned off and never on again"},
    "silences_warnings": {"check": "process_state", "bug": "all warnings of the process are silenced"},
    "flushes_denormals": {"check": "process_state", "bug": "the processor is set to flush subnormal numbers to zero"},
    "keeps_every_input": {
        "check": "memory_growth",
        "bug": "a list keeps every input",
        "options": {"quick": False},
    },
    "loop_over_classes": {
        "check": "time_limit",
        "bug": "a Python loop over the classes takes seconds for 100,000 of them",
        "options": {"quick": False, "timeout": 2.0},
    },
    "label_clamped": {
        "check": "label_out_of_range",
        "bug": "a label out of range is clamped silently: a deviation, which --strict rejects",
        "source": "google-deepmind/optax#1185",
        "options": {"strict": True},
    },
}
