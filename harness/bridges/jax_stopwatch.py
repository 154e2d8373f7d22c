"""The stopwatch of JAX: one compiled program for what is timed, and a backward by itself.

Eager, JAX dispatches operation by operation and traces the gradient anew in each call; compiled, ``jax.jit`` is around
the whole of it, loss and gradient together, as a training step would have it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from harness.bridges import Inputs
from harness.bridges.jax_bridge import JaxBridge
from harness.bridges.stopwatch import Result, Stopwatch, Task
from harness.declaration import Implementation

__all__ = ["STOPWATCH", "JaxStopwatch"]


class JaxStopwatch(Stopwatch[JaxBridge]):
    """JAX on its default device."""

    def __init__(self, bridge: JaxBridge) -> None:
        super().__init__(bridge)
        self.jax: Any = bridge.jax
        self._programs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def compiled(self, implementation: Implementation, task: Task) -> Implementation:
        """The implementation itself: `call` compiles, since it knows what is to be one program."""
        return implementation

    def call(self, implementation: Implementation, inputs: Inputs, task: Task) -> Callable[[], Result]:
        """What the clock is around, waited for."""
        if task.mode == "eager":
            return super().call(implementation, inputs, task)
        made = functools.partial(self._program, implementation, inputs)
        with self.jax.enable_x64(True):
            if task.what == "forward":
                forward = made("forward", self._loss)
                return self._waiting(lambda: (forward(inputs.logits, inputs.target), None))
            if task.what == "forward+backward":
                both = made("both", self._both)
                return self._waiting(lambda: both(inputs.logits, inputs.target, inputs.upstream))
            loss, pull = made("pull", self._pull)(inputs.logits, inputs.target)
            back = self._once("back", self.jax.jit(lambda pull, upstream: pull(upstream)[0]))
            return self._waiting(lambda: (loss, back(pull, _fitted(inputs.upstream, loss))))

    def backward(self, implementation: Implementation, inputs: Inputs) -> Callable[[], Result]:
        """What ``jax.vjp`` gives back, eager."""
        with self.jax.enable_x64(True):
            loss, pull = self._pull(implementation, inputs.options, inputs.logits, inputs.target)
            upstream = _fitted(inputs.upstream, loss.block_until_ready()).block_until_ready()
        return self._waiting(lambda: (loss, pull(upstream)[0]))

    def _waiting(self, call: Callable[[], Result]) -> Callable[[], Result]:
        def waited() -> Result:
            with self.jax.enable_x64(True):
                result: Result = self.jax.block_until_ready(call())
            return result

        return waited

    def _program(
        self, implementation: Implementation, inputs: Inputs, name: str, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """A compiled function of the arrays, made once; options are constants of it."""
        options = inputs.options
        key = (name, implementation.declaration.name, *sorted(options.items()))
        return self._once(key, self.jax.jit(functools.partial(function, implementation, options)))

    def _once(self, key: Any, made: Callable[..., Any]) -> Callable[..., Any]:
        return self._programs.setdefault(key, made)

    @staticmethod
    def _loss(implementation: Implementation, options: Any, logits: Any, target: Any) -> Any:
        return implementation.function(logits, target, **options)

    def _pull(self, implementation: Implementation, options: Any, logits: Any, target: Any) -> tuple[Any, Any]:
        loss, pull = self.jax.vjp(lambda z: self._loss(implementation, options, z, target), logits)
        return loss, pull

    def _both(self, implementation: Implementation, options: Any, logits: Any, target: Any, upstream: Any) -> Result:
        loss, pull = self._pull(implementation, options, logits, target)
        return loss, pull(_fitted(upstream, loss))[0]


def _fitted(upstream: Any, loss: Any) -> Any:
    """The upstream gradient in the loss's shape and dtype; of a scalar loss, its first element."""
    chosen = upstream.reshape(-1)[:1] if loss.ndim == 0 else upstream
    return chosen.astype(loss.dtype).reshape(loss.shape)


STOPWATCH = JaxStopwatch
