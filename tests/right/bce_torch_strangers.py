"""Right binary cross-entropies with logits in torch: as a softmax of two, and in the input's own dtype throughout."""

import torch
import torch.nn.functional as F


def _wide(x):
    return x.float() if x.itemsize == 2 else x


def softplus_minus(logits, target):
    x = _wide(logits)
    return F.softplus(x, threshold=50) - x * _wide(target)


def softmax_of_two(logits, target):
    x, t = _wide(logits), _wide(target)
    logp = torch.log_softmax(torch.stack([torch.zeros_like(x), x], -1), -1)
    return -(t * logp[..., 1] + (1 - t) * logp[..., 0])


def log_sigmoids_as_they_come(logits, target, *, pos_weight=None, reduction="mean"):
    positive = target if pos_weight is None else pos_weight * target
    loss = -(positive * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits))
    return loss if reduction == "none" else getattr(loss, reduction)()


EXPECT = {
    "softplus_minus": {
        "style": "softplus of the logit minus t·x",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "softmax_of_two": {
        "style": "log_softmax of 0 and the logit",
        "options": {"loss": "binary_cross_entropy_with_logits"},
    },
    "log_sigmoids_as_they_come": {
        "style": "two logsigmoids, 16-bit input in 16 bits",
        "options": {"loss": "binary_cross_entropy_with_logits", "dtypes": ["bfloat16", "float16", "float32"]},
        "deviation": "storage_grade",
    },
}
