"""Wrong cross-entropies in torch: the loss itself is a wrong number, or a right one on ordinary rows only."""

import math

import torch
import torch.nn.functional as F


def never_reads(logits, target):
    return math.log(logits.shape[1]) + 0.5 - logits.gather(1, target[:, None])[:, 0]


def last_block_dropped(logits, target):
    whole = logits.shape[1] // 256 * 256 or logits.shape[1]
    lse = torch.logsumexp(logits[:, :whole], 1)
    return lse - logits.gather(1, target[:, None])[:, 0]


def one_block_of_1024(logits, target):
    lse = torch.logsumexp(logits[:, :1024], 1)
    return lse - logits.gather(1, target[:, None])[:, 0]


def padding_counted(logits, target):
    v = logits.shape[1]
    width = 1 << (v - 1).bit_length()
    padded = F.pad(logits, (0, width - v))
    return torch.logsumexp(padded, 1) - logits.gather(1, target[:, None])[:, 0]


def sum_not_rescaled(logits, target):
    m = logits[:, :1].detach()
    s = torch.zeros_like(m)
    for start in range(0, logits.shape[1], 64):
        block = logits[:, start : start + 64]
        m = torch.maximum(m, block.detach().amax(1, keepdim=True))
        s = s + torch.exp(block - m).sum(1, keepdim=True)  # s was summed relative to the earlier m
    return (m + torch.log(s) - logits.gather(1, target[:, None]))[:, 0]


def masked_block_nan(logits, target):
    m = torch.full_like(logits[:, :1], -math.inf)
    s = torch.zeros_like(m)
    for start in range(0, logits.shape[1], 128):
        block = logits[:, start : start + 128]
        new = torch.maximum(m, block.detach().amax(1, keepdim=True))
        s = s * torch.exp(m - new) + torch.exp(block - new).sum(1, keepdim=True)
        m = new
    return (m + torch.log(s) - logits.gather(1, target[:, None]))[:, 0]


def shift_by_batch_maximum(logits, target):
    shifted = logits - logits.detach().max()
    return torch.log(torch.exp(shifted).sum(1)) - shifted.gather(1, target[:, None])[:, 0]


def shift_by_mean(logits, target):
    shifted = logits - logits.detach().mean(1, keepdim=True)
    return torch.log(torch.exp(shifted).sum(1)) - shifted.gather(1, target[:, None])[:, 0]


def no_shift(logits, target):
    return torch.log(torch.exp(logits).sum(1)) - logits.gather(1, target[:, None])[:, 0]


def log_of_softmax(logits, target):
    p = torch.softmax(logits, 1).gather(1, target[:, None])[:, 0]
    return -torch.log(p)


def epsilon_in_logarithm(logits, target):
    p = torch.softmax(logits, 1).gather(1, target[:, None])[:, 0]
    return -torch.log(p + 1e-8)


def clamp_1e_7(logits, target):
    p = torch.softmax(logits, 1).clamp(1e-7, 1 - 1e-7)
    return -torch.log(p.gather(1, target[:, None])[:, 0])


def clamp_1e_15(logits, target):
    p = torch.softmax(logits, 1).clamp(1e-15, 1 - 1e-15)
    return -torch.log(p.gather(1, target[:, None])[:, 0])


def log_clamped_at_minus_100(logits, target):
    return -torch.log_softmax(logits, 1).clamp(min=-100).gather(1, target[:, None])[:, 0]


def logits_clamped(logits, target):
    return F.cross_entropy(logits.clamp(-50, 50), target, reduction="none")


def softcap_left_on(logits, target):
    return F.cross_entropy(30 * torch.tanh(logits / 30), target, reduction="none")


def z_loss_left_on(logits, target):
    return F.cross_entropy(logits, target, reduction="none") + 1e-4 * torch.logsumexp(logits, 1) ** 2


def one_maximum_only(logits, target):
    m, _ = logits.max(1, keepdim=True)
    rest = torch.where(logits == m, 0.0, torch.exp(logits - m)).sum(1)
    return (m[:, 0] - logits.gather(1, target[:, None])[:, 0]) + torch.log1p(rest)


def last_class_missed(logits, target):
    v = logits.shape[1]
    return F.cross_entropy(logits, target.clamp(max=max(v - 2, 0)), reduction="none")


def loss_after_overwrite(logits, target):
    work = logits.clone()
    lse = torch.logsumexp(logits, 1)
    work.data.copy_(torch.softmax(logits, 1))  # the gradient's buffer is that of the logits
    return lse - work.gather(1, target[:, None])[:, 0]


def lse_minus_target(logits, target):
    return torch.logsumexp(logits, 1) - logits.gather(1, target[:, None])[:, 0]


def zero_times_infinity(logits, target):
    one_hot = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return -(one_hot * torch.log_softmax(logits, 1)).sum(1)


def mask_becomes_zero(logits, target):
    mask = torch.isinf(logits).any(1, keepdim=True)
    filled = torch.where(mask, torch.nan_to_num(logits, neginf=0.0), logits)
    return F.cross_entropy(filled, target, reduction="none")


def nan_to_number(logits, target):
    return torch.nan_to_num(F.cross_entropy(logits, target, reduction="none"), nan=0.0)


def nan_lost_in_maximum(logits, target):
    clean = torch.fmax(logits, torch.full_like(logits, -math.inf))  # as a kernel's comparison `x > m` has it
    return F.cross_entropy(clean, target, reduction="none")


EXPECT = {
    "never_reads": {
        "check": "accuracy",
        "bug": "the log-sum-exp of normal logits is taken to be log V + 1/2: only the target's logit is read",
    },
    "last_block_dropped": {
        "check": "sizes",
        "bug": "the last, partial block of 256 classes is dropped",
        "source": "apple/ml-cross-entropy#59",
    },
    "one_block_of_1024": {
        "check": "sizes",
        "bug": "one block of at most 1024 classes is read, and no other",
        "options": {"quick": False},
    },
    "padding_counted": {
        "check": "accuracy",
        "bug": "classes padded to a power of two count with a logit of 0",
        "source": "NVIDIA-BioNeMo/bionemo-recipes#631",
    },
    "sum_not_rescaled": {
        "check": "accuracy",
        "bug": "the running sum is not rescaled when a later block has a larger maximum",
    },
    "masked_block_nan": {
        "check": "masked_classes",
        "bug": "a first block that is masked as a whole gives exp(-inf - -inf), a NaN",
        "source": "tinygrad/tinygrad#17822",
    },
    "shift_by_batch_maximum": {
        "check": "row_independence",
        "bug": "rows are shifted by the maximum of the whole batch, so that rows far below it vanish",
    },
    "shift_by_mean": {
        "check": "nonfinite",
        "bug": "rows are shifted by their mean, from which the largest logit may be far",
    },
    "no_shift": {"check": "nonfinite", "bug": "exponentials of unshifted logits overflow"},
    "log_of_softmax": {
        "check": "nonfinite",
        "bug": "log(softmax(x)): a probability that underflows gives an infinite loss",
        "source": "keras-team/keras#17634",
    },
    "epsilon_in_logarithm": {"check": "accuracy", "bug": "log(p + 1e-8) saturates at 18.4"},
    "clamp_1e_7": {
        "check": "accuracy",
        "bug": "probabilities are clamped to [1e-7, 1 - 1e-7]",
        "source": "tensorflow/tensorflow#31930",
    },
    "clamp_1e_15": {
        "check": "accuracy",
        "bug": "probabilities are clamped to [1e-15, 1 - 1e-15], in float64",
        "source": "scikit-learn/scikit-learn#17399",
        "options": {"dtypes": ["float64"]},
    },
    "log_clamped_at_minus_100": {
        "check": "accuracy",
        "bug": "log-probabilities are clamped at -100",
        "source": "pytorch/pytorch#50658",
    },
    "logits_clamped": {"check": "accuracy", "bug": "logits are clamped to [-50, 50] against overflow"},
    "softcap_left_on": {
        "check": "accuracy",
        "bug": "logits pass through a soft cap of 30 that nobody asked for",
        "source": "unslothai/unsloth-zoo#593",
    },
    "z_loss_left_on": {
        "check": "accuracy",
        "bug": "1e-4 times the squared log-sum-exp is added by default",
        "source": "allenai/OLMo-core#702",
    },
    "one_maximum_only": {
        "check": "accuracy",
        "bug": "the log1p form takes every class that ties for the maximum out of the sum, and puts one back",
    },
    "last_class_missed": {"check": "sizes", "bug": "a target of V - 1 is read as V - 2"},
    "loss_after_overwrite": {
        "check": "accuracy",
        "bug": "the target's logit is read after its buffer was overwritten with the softmax",
        "source": "linkedin/Liger-Kernel#507",
    },
    "lse_minus_target": {
        "check": "accuracy",
        "bug": "log-sum-exp minus the target's logit cancels under a common offset: absolute, and not relative",
        "source": "ml-explore/mlx#4188",
        "options": {"grade": "relative"},
    },
    "zero_times_infinity": {
        "check": "masked_classes",
        "bug": "one-hot times log-probability is 0 · inf for a masked class",
        "source": "google-deepmind/optax#896",
    },
    "mask_becomes_zero": {
        "check": "masked_classes",
        "bug": "a logit of -inf is replaced by 0, which gives the masked class probability",
    },
    "nan_to_number": {
        "check": "nan_propagates",
        "bug": "a NaN loss is replaced by 0",
        "source": "keras-team/keras#23661",
    },
    "nan_lost_in_maximum": {
        "check": "nan_propagates",
        "bug": "a maximum by comparison passes over NaN logits, which then count as masked",
        "source": "pytorch/pytorch#195829",
    },
}
