"""JAX candidates: gradients by ``jax.vjp``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.bridges import Bridge
from harness.vetting.drivers.base import FACTORS, Array, Call, Driver, Given, NoDevice, Pull, fit

__all__ = ["JaxDriver"]


class JaxDriver(Driver):
    """JAX: gradients by ``jax.vjp``; arrays have no layout and no address that a caller could choose."""

    fewest_threads = 2
    """With one, a callback into Python that reads an array can wait for ever for the thread that it runs on:
    https://github.com/jax-ml/jax/issues/24255."""

    def __init__(self, bridge: Bridge, device: str = "cpu") -> None:
        super().__init__(bridge, device)
        self.jax: Any = vars(bridge)["jax"]
        self.wide = bool(self.jax.config.jax_enable_x64)
        if device == "cuda":
            try:
                self.jax.devices("cuda")
            except RuntimeError:
                raise NoDevice("JAX finds no CUDA device here: leave --device cuda out") from None

    def settle(self) -> None:
        """64-bit types in all threads: a callback into Python runs in another one than the call."""
        self.jax.config.update("jax_enable_x64", True)

    def unsettle(self) -> None:
        """As many bits as there were."""
        self.jax.config.update("jax_enable_x64", self.wide)

    @contextmanager
    def context(self) -> Iterator[None]:
        """The same, with 64-bit types."""
        with super().context(), self.jax.enable_x64(True):
            yield

    def view(self, array: Array, layout: str) -> Any:
        """A new array: JAX chooses its layout by itself."""
        return self.bridge.native(array)

    def refill(self, native: Any, array: Array) -> Any:
        """A new array: JAX's cannot be written to."""
        return self.bridge.native(array)

    def begin(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, Pull]:
        """The loss, and what pulls upstream gradients back through it."""
        if not call.gradient:
            loss = candidate(given.logits, given.target, **given.options)
            return self.jax.block_until_ready(loss), list
        loss, pull_back = self.jax.vjp(lambda z: candidate(z, given.target, **given.options), given.logits)
        upstream = fit(given.upstream.astype(loss.dtype), loss)

        def gradients() -> list[Any]:
            factors = FACTORS[: call.backwards]
            given = [upstream if factor == 1 else upstream * upstream.dtype.type(factor) for factor in factors]
            found: list[Any] = self.jax.block_until_ready([pull_back(each)[0] for each in given])
            return found

        return self.jax.block_until_ready(loss), gradients
