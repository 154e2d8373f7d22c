"""The stopwatch of NumPy: its backward is the declared gradient function by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.bridges import Inputs
from harness.bridges.numpy_bridge import NumpyBridge, gradient_options
from harness.bridges.stopwatch import Result, Stopwatch
from harness.declaration import Implementation

__all__ = ["STOPWATCH", "NumpyStopwatch"]


class NumpyStopwatch(Stopwatch[NumpyBridge]):
    """NumPy, and what computes on its arrays."""

    def backward(self, implementation: Implementation, inputs: Inputs) -> Callable[[], Result]:
        """The gradient function: what it needs of the forward it computes again."""
        function, options = implementation.gradient, gradient_options(implementation, inputs)
        loss = self.bridge.forward(implementation, inputs)
        upstream = inputs.upstream.reshape(-1)[0] if np.ndim(loss) == 0 and inputs.upstream.size else inputs.upstream
        assert function is not None

        def call() -> Result:
            with np.errstate(all="ignore"):
                return loss, function(inputs.logits, inputs.target, upstream, **options)

        return call


STOPWATCH = NumpyStopwatch
