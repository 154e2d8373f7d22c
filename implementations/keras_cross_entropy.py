"""keras.losses.SparseCategoricalCrossentropy and CategoricalCrossentropy from logits, on TensorFlow.

Good: 16-bit logits are computed in float32; a common offset costs nothing. Bad: blind to a tail below u, and so are the
gradients at high confidence. Without a dtype a Keras loss makes float32 of float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from tensorflow import Tensor


def _dtype(logits: Tensor) -> str:
    """What the loss is computed in: Keras's own choice is float32, which would lose half of a float64."""
    return "float64" if logits.dtype.name == "float64" else "float32"


@implementation(
    framework="tensorflow",
    loss="cross_entropy",
    grade={"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"},
    targets=("indices", "probabilities"),
    requires={"keras": "keras"},
    known_failures=(
        KnownFailure(
            ("soft_targets_unnormalised",),
            "The gradient is p − t, as if the target summed to 1, although the loss is right.",
            what=("gradient",),
        ),
    ),
)
def keras_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """keras.losses.SparseCategoricalCrossentropy, or CategoricalCrossentropy for probabilities, from logits."""
    from keras import losses

    kind: Any = losses.SparseCategoricalCrossentropy if len(target.shape) == 1 else losses.CategoricalCrossentropy
    result: Tensor = kind(from_logits=True, reduction=None, dtype=_dtype(logits))(target, logits)
    return result
