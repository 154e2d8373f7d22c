"""Train a small network on scikit-learn's bundled digits with torch, and record its logits.

    python examples/digits_torch.py -o sane.safetensors
    python examples/digits_torch.py --diverge -o diverging.safetensors
    xent accuracy --logits diverging.safetensors

The same seed gives the same file on the same machine and versions. Seconds on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits

from harness.recorder import Recorder

SANE, DIVERGING = 0.1, 10.0  # learning rates


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says, and print how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default="digits.safetensors", help="where the logits and labels go")
    parser.add_argument("--diverge", action="store_true", help="a learning rate that is a hundred times too large")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # so that sums are formed in one order, whatever the machine
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = (images / 16).float()
    # tanh saturates, so that a run which diverges has large logits to show: with ReLU the units die and all logits are
    # near zero, with LeakyReLU they are NaN after some ten steps.
    model = torch.nn.Sequential(
        *(torch.nn.Linear(64, 64), torch.nn.Tanh()),
        *(torch.nn.Linear(64, 64), torch.nn.Tanh()),
        torch.nn.Linear(64, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=DIVERGING if options.diverge else SANE, momentum=0.9)

    with Recorder(options.output, steps=range(0, options.steps, 50), seed=options.seed) as record:
        for step in range(options.steps):
            batch = torch.randint(len(images), (128,))
            logits = model(images[batch])
            record(step, logits, labels[batch])
            loss = torch.nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with torch.no_grad():
        logits = model(images)
    right = (logits.argmax(1) == labels).float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits, labels).item()
    largest = logits.abs().max().item()
    print(f"{options.output}: {record.recorded} rows")  # noqa: T201
    print(f"after {options.steps} steps: {right:.1%} right, loss {loss:.4g}, largest logit {largest:.4g}")  # noqa: T201


if __name__ == "__main__":
    main()
