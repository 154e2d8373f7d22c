"""optax.softmax_cross_entropy and safe_softmax_cross_entropy: −Σ q_j log_softmax(z)_j, labels as one-hot rows.

Good: takes class probabilities; a common offset costs nothing. Bad: needs [N, V] targets. As jax_log_softmax, blind to
a tail below u. The plain form multiplies every log-probability by its target, and 0·(−∞) is NaN: a masked class, or one
whose log-probability overflows, loses the row. The safe form leaves out the classes without target mass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.declaration import KnownFailure, implementation

if TYPE_CHECKING:
    from jax import Array

_GRADES = {"float64": "absolute", "float32": "absolute", "bfloat16": "storage", "float16": "storage"}
_TOO_MANY = KnownFailure(
    ("uniform_128256",),
    "The sum of exponentials, taken in float32, is rounded to float16: ∞ from 65,520 equal classes on.",
    "jax-ml/jax#40409",
    dtypes=("float16",),
)
_NAN_PRODUCT = KnownFailure(
    ("masked", "format_maximum", "recorded/charlm_diverging", "worst_cases_*"),
    "The log-probability of another class is −∞, masked or beyond the format, and its product with target 0 is NaN.",
    "google-deepmind/optax#896",
    what=("loss",),
)


def _probabilities(logits: Array, target: Array) -> Array:
    """The target as probabilities [N, V] of the logits' dtype."""
    import jax

    return target if target.ndim == 2 else jax.nn.one_hot(target, logits.shape[1], dtype=logits.dtype)


@implementation(
    framework="jax",
    devices=("cpu", "cuda"),
    loss="cross_entropy",
    grade=_GRADES,
    targets=("indices", "probabilities"),
    requires={"optax": "optax"},
    known_failures=(_TOO_MANY, _NAN_PRODUCT),
)
def optax_one_hot(logits: Array, target: Array) -> Array:
    """optax.softmax_cross_entropy."""
    import optax

    return optax.softmax_cross_entropy(logits, _probabilities(logits, target))


@implementation(
    framework="jax",
    devices=("cpu", "cuda"),
    loss="cross_entropy",
    grade=_GRADES,
    targets=("indices", "probabilities"),
    requires={"optax": "optax"},
    known_failures=(_TOO_MANY,),
)
def optax_safe_softmax(logits: Array, target: Array) -> Array:
    """optax.safe_softmax_cross_entropy."""
    import optax

    return optax.safe_softmax_cross_entropy(logits, _probabilities(logits, target))
