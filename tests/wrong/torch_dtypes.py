"""Wrong cross-entropies in torch: too narrow an arithmetic, or an output that is not of the form asked for."""

import torch
import torch.nn.functional as F


def float32_inside_float64(logits, target):
    return F.cross_entropy(logits.float(), target, reduction="none").to(logits.dtype)


def bfloat16_inside_float32(logits, target):
    return F.cross_entropy(logits.bfloat16(), target, reduction="none").to(logits.dtype)


def float16_inside_float32(logits, target):
    shifted = logits - logits.detach().amax(1, keepdim=True)
    total = torch.exp(shifted).half().sum(1, dtype=torch.float16).to(logits.dtype)
    return torch.log(total) - shifted.gather(1, target[:, None])[:, 0]


def _summed_in_16_bits(logits, target):
    shifted = logits - logits.detach().amax(1, keepdim=True)
    terms = torch.exp(shifted)
    total = torch.zeros_like(terms[:, 0])
    for j in range(min(terms.shape[1], 4096)):  # further terms would not change it any more
        total = total + terms[:, j]
    return torch.log(total) - shifted.gather(1, target[:, None])[:, 0]


def bfloat16_accumulator(logits, target):
    return _summed_in_16_bits(logits, target)


def float16_accumulator(logits, target):
    return _summed_in_16_bits(logits, target)


def float16_gradient_buffer(logits, target):
    return F.cross_entropy(_HalfGradient.apply(logits), target, reduction="none")


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.half().to(grad.dtype)


def library_float16_sum(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


def float16_output(logits, target):
    return F.cross_entropy(logits, target, reduction="none").half()


def float64_output(logits, target):
    return F.cross_entropy(logits.double(), target, reduction="none")


def scalar_for_none(logits, target, *, reduction="mean"):
    return F.cross_entropy(logits, target, reduction="sum" if reduction == "sum" else "mean")


def rows_for_mean(logits, target, *, reduction="mean"):
    return F.cross_entropy(logits, target, reduction="none")


def column_of_losses(logits, target):
    return F.cross_entropy(logits, target, reduction="none")[:, None]


def python_number(logits, target):
    return float(F.cross_entropy(logits, target))


def raises_for_one_row(logits, target):
    rows = F.log_softmax(logits.squeeze(), -1)
    return -rows.gather(1, target[:, None])[:, 0]


EXPECT = {
    "float32_inside_float64": {
        "check": "accuracy",
        "bug": "float64 is cast to float32 and back",
        "options": {"dtypes": ["float64"]},
    },
    "bfloat16_inside_float32": {
        "check": "accuracy",
        "bug": "float32 is computed in bfloat16",
        "source": "pytorch/xla#7992",
    },
    "float16_inside_float32": {
        "check": "accuracy",
        "bug": "exponentials are rounded to float16 and summed in it",
    },
    "bfloat16_accumulator": {
        "check": "accuracy",
        "bug": "the sum of exponentials is kept in bfloat16, and stops growing at 256",
        "source": "google/flax#677",
        "options": {"dtypes": ["bfloat16"]},
    },
    "float16_accumulator": {
        "check": "accuracy",
        "bug": "the sum of exponentials is kept in float16, and stops growing at 2048",
        "source": "pytorch/pytorch#61523",
        "options": {"dtypes": ["float16"]},
    },
    "float16_gradient_buffer": {
        "check": "gradient_accuracy",
        "bug": "the gradient goes through a float16 buffer, where small entries vanish",
        "source": "pytorch/pytorch#133032",
    },
    "library_float16_sum": {
        "check": "nonfinite",
        "bug": "torch's own CPU kernel sums float16 in float16, which overflows from 65,520 equal classes on",
        "source": "jax-ml/jax#40409",
        "options": {"dtypes": ["float16"]},
    },
    "float16_output": {
        "check": "output_form",
        "bug": "float32 input gives a float16 loss",
        "source": "linkedin/Liger-Kernel#501",
    },
    "float64_output": {
        "check": "wider_output",
        "bug": "float32 input gives a float64 loss: a deviation, which --strict rejects",
        "options": {"strict": True},
    },
    "scalar_for_none": {"check": "output_form", "bug": 'reduction="none" gives a scalar'},
    "rows_for_mean": {"check": "reduction", "bug": 'reduction="mean" gives one loss per row'},
    "column_of_losses": {"check": "output_form", "bug": "losses come as [N, 1]"},
    "python_number": {"check": "output_form", "bug": "a Python float comes back, which autograd knows nothing of"},
    "raises_for_one_row": {
        "check": "crash",
        "bug": "squeeze() takes away the rows' axis where there is one row, or the classes' where there is one class",
    },
}
