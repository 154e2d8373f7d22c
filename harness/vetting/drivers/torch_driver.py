"""torch candidates: gradients by autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from harness.bridges import Bridge
from harness.vetting.drivers.base import (
    FACTORS,
    Array,
    Call,
    Driver,
    Given,
    NoDevice,
    NoGradient,
    Pull,
    WrongShape,
    fit,
)
from harness.vetting.layouts import torch_view

__all__ = ["TorchDriver"]


class TorchDriver(Driver):
    """torch: gradients by autograd, with respect to a leaf in the layout asked for."""

    def __init__(self, bridge: Bridge, device: str = "cpu") -> None:
        super().__init__(bridge, device)
        self.torch: Any = vars(bridge)["torch"]
        if device == "cuda" and not self.torch.cuda.is_available():
            raise NoDevice("torch finds no CUDA device here: leave --device cuda out")

    def view(self, array: Array, layout: str) -> Any:
        """A tensor of its own on the device, in the layout."""
        return torch_view(self.torch, self.bridge.native(array).to(self.device), layout)

    def refill(self, native: Any, array: Array) -> Any:
        """The same tensor, written to behind autograd's back."""
        with self.torch.no_grad():
            native.detach().copy_(self.bridge.native(array))
        return native

    def begin(self, candidate: Callable[..., Any], given: Given, call: Call) -> tuple[Any, Pull]:
        """The loss; where a gradient is asked for, of logits that are a leaf and require it."""
        # In a sequence the very same tensors are passed again, as a caller may do: a mark on one of them shows.
        if call.no_grad:
            with self.torch.no_grad():
                return candidate(given.logits, given.target, **given.options), list
        if not call.gradient:
            return candidate(given.logits, given.target, **given.options), list
        leaf = given.logits.requires_grad_()
        with self.torch.enable_grad():
            loss = candidate(leaf, given.target, **given.options)
        if type(loss) is not self.torch.Tensor:  # a subclass has arithmetic of its own, which nobody here has judged
            raise WrongShape(f"returned {type(loss).__name__}, not a torch.Tensor")
        if not loss.requires_grad:
            raise NoGradient("the loss does not require a gradient: autograd cannot reach the logits")
        upstream = fit(given.upstream.to(loss.dtype), loss)
        return loss, partial(self._gradients, loss, leaf, upstream, call)

    def _gradients(self, loss: Any, leaf: Any, upstream: Any, call: Call) -> list[Any]:
        gradients = []
        for turn in range(call.backwards):
            keep = turn + 1 < call.backwards
            given = upstream if FACTORS[turn] == 1 else upstream * FACTORS[turn]
            (gradient,) = self.torch.autograd.grad(loss, leaf, given, retain_graph=keep, allow_unused=True)
            if gradient is None:
                raise NoGradient("the loss does not depend on the logits, as autograd sees it")
            # A copy where there is another to come, which may write to what this one has handed out.
            gradients.append(gradient.clone() if call.backwards > 1 else gradient)
        return gradients

    @contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """So many threads of torch's within one operation."""
        before = self.torch.get_num_threads()
        self.torch.set_num_threads(count or before)
        try:
            yield
        finally:
            self.torch.set_num_threads(before)

    def marked(self, given: Given, call: Call) -> list[str]:
        """What autograd reads of a tensor, and a call has no business to set on the caller's."""
        tensors = {"logits": given.logits, "target": given.target, "upstream": given.upstream, **given.options}
        found = []
        for name, tensor in tensors.items():
            if not isinstance(tensor, self.torch.Tensor):
                continue
            asked = name == "logits" and call.gradient and not call.no_grad
            found += [f"requires_grad of {name}"] * (tensor.requires_grad != asked)
            found += [f"grad of {name}"] * (tensor.is_leaf and tensor.grad is not None)
            found += [f"hooks of {name}"] * bool(tensor._backward_hooks)
        return found
