"""Train a small network on scikit-learn's bundled digits with JAX and optax, and record its logits.

    python examples/digits_jax.py -o sane.safetensors
    python examples/digits_jax.py --diverge -o diverging.safetensors
    xent accuracy --logits diverging.safetensors

The same seed gives the same file on the same machine and versions. Seconds on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from harness.recorder import Recorder

SANE, DIVERGING = 0.1, 10.0  # learning rates
SIZES = (64, 64, 64, 10)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says, and print how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="digits.safetensors", help="where the logits and labels go")
    parser.add_argument("--diverge", action="store_true", help="a learning rate that is a hundred times too large")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    rng = np.random.default_rng(options.seed)
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    params = initial(jax.random.key(options.seed))
    optimizer = optax.sgd(DIVERGING if options.diverge else SANE, momentum=0.9)
    state = optimizer.init(params)

    @jax.jit
    def update(params: Any, state: Any, batch: Any, target: Any) -> Any:
        # The logits come out beside the gradient, to be recorded where they are numbers: outside of jit.
        (_, logits), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, batch, target)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, logits

    with Recorder(options.output, steps=range(0, options.steps, 50), seed=options.seed) as record:
        for step in range(options.steps):
            rows = rng.integers(len(images), size=128)
            params, state, logits = update(params, state, images[rows], labels[rows])
            record(step, logits, labels[rows])

    loss, logits = loss_of(params, images, labels)
    right, largest = float((logits.argmax(1) == labels).mean()), float(abs(logits).max())
    print(f"{options.output}: {record.recorded} rows")  # noqa: T201
    print(f"after {options.steps} steps: {right:.1%} right, loss {loss:.4g}, largest logit {largest:.4g}")  # noqa: T201


def initial(key: jax.Array) -> Any:
    """Weights and offsets of each layer, uniform in ±1/√(inputs) as torch has it."""
    params = []
    for inputs, outputs, layer_key in zip(SIZES, SIZES[1:], jax.random.split(key, 3), strict=False):
        uniform = jax.random.uniform(layer_key, (inputs + 1, outputs), minval=-(inputs**-0.5), maxval=inputs**-0.5)
        params.append((uniform[:-1], uniform[-1]))
    return params


def forward(params: Any, images: Any) -> Any:
    """Logits [N, 10]; tanh saturates, so that a run which diverges has large logits to show and no NaN."""
    *hidden, (weights, offsets) = params
    for w, b in hidden:
        images = jnp.tanh(images @ w + b)
    return images @ weights + offsets


def loss_of(params: Any, images: Any, labels: Any) -> tuple[Any, Any]:
    """The mean loss, and the logits [N, 10] that it comes from."""
    logits = forward(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits


if __name__ == "__main__":
    main()
