"""A d × d matrix that is never formed: ``σ I + L R`` with ``L [d, r]`` and ``R [r, d]``.

Where embeddings are wide and few rows are erased, every matrix of the algebra is of this kind: ``G = WᵀW`` of a map
with fewer outputs than inputs, the moments of few rows, and ``M``. :class:`Factored` stands where a tensor ``[d, d]``
would and knows the products, sums and traces that the algebra forms; what needs the entries themselves refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rece_lightning.core.errors import ConfigurationError

WIDEST_FORMED = 4096
"""Up to this width matrices ``[d, d]`` are formed: at 4,096 one takes 134 MB."""


def pays(width: int, outputs: int) -> bool:
    """Whether a space's matrices are kept in factors: wide embeddings, read by maps with fewer outputs than inputs.

    Args:
        width: ``d``.
        outputs: of all maps that read the space, together.
    """
    return width > WIDEST_FORMED and outputs < width


class Factored(Tensor):
    """``σ I + L R`` in the place of a tensor ``[d, d]``.

    Products with tensors and with each other, sums, multiples, transposes, traces and diagonals are found from the
    factors. Any other operation raises.

    Args:
        left: ``L``, ``[d, r]``.
        right: ``R``, ``[r, d]``.
        scale: σ.

    Example:
        >>> import torch
        >>> left, right = torch.arange(6.0).reshape(3, 2), torch.ones(2, 3)
        >>> matrix = Factored(left, right, 2.0)
        >>> torch.equal(torch.eye(3) @ matrix, 2 * torch.eye(3) + left @ right)
        True
        >>> tuple(matrix.shape), float(matrix.trace())
        ((3, 3), 21.0)
    """

    left: Tensor
    right: Tensor
    scale: float

    @staticmethod
    def __new__(cls, left: Tensor, right: Tensor, scale: float = 0.0) -> Factored:
        width = left.shape[0]
        own = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, (width, width), dtype=left.dtype, device=left.device
        )
        own.left, own.right, own.scale = left, right, float(scale)
        return own  # type: ignore[no-any-return]

    def __init__(self, left: Tensor, right: Tensor, scale: float = 0.0) -> None:
        super().__init__()

    @classmethod
    def identity(cls, width: int, device: torch.device | str = "cpu") -> Factored:
        """``I``, float64."""
        empty = torch.zeros(width, 0, dtype=torch.float64, device=device)
        return cls(empty, empty.mT, 1.0)

    @classmethod
    def of_rows(cls, rows: Tensor) -> Factored:
        """``RᵀR`` of rows ``[n, d]``: what they and their weights' roots make a second moment of."""
        return cls(rows.mT, rows)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Factored({self.scale:g} I + {list(self.left.shape)} {list(self.right.shape)})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        handler = _HANDLERS.get(func)
        if handler is None:
            raise _refused(getattr(func, "__name__", str(func)), args)
        return handler(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """What gets past the operations above.

        Raises:
            ConfigurationError: always.
        """
        raise _refused(str(func), args)


_HANDLERS: dict[Any, Callable[..., Any]] = {}


def _getter(name: str) -> Any:
    """What is called for a tensor's property."""
    return getattr(torch.Tensor, name).__get__


_METADATA = {
    *(_getter(name) for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad")),
    torch.Tensor.__len__, torch.Tensor.dim, torch.Tensor.size, torch.Tensor.is_floating_point,
}  # fmt: skip


def _refused(name: str, args: Sequence[Any]) -> ConfigurationError:
    width = next((len(one.left) for one in args if isinstance(one, Factored)), 0)
    return ConfigurationError(
        f"This needs a matrix of {width:,} × {width:,} numbers ({name}), and for embeddings so wide an erasure by UCE "
        "or RECE keeps them in factors; it is not to be had for this model."
    )


def _handles(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        _HANDLERS.update(dict.fromkeys(functions, handler))
        return handler

    return register


@_handles(torch.Tensor.__matmul__, torch.Tensor.matmul, torch.matmul)
def _product(one: Tensor, other: Tensor) -> Tensor:
    """``A B``: in factors where both are, otherwise the tensor that it is."""
    if not isinstance(one, Factored):
        assert isinstance(other, Factored)
        own = (one @ other.left) @ other.right
        return own + other.scale * one if other.scale else own
    if not isinstance(other, Factored):
        own = one.left @ (one.right @ other)
        return own + one.scale * other if one.scale else own
    if not one.scale and (other.scale or one.left.shape[1] <= other.left.shape[1]):
        return Factored(one.left, one.right @ other)
    if not other.scale:
        return Factored(one @ other.left, other.right)
    # σ I times the other's factors, and the own ones times all of it.
    left = torch.cat([one.scale * other.left, one.left], dim=1)
    return Factored(left, torch.cat([other.right, one.right @ other]), one.scale * other.scale)


@_handles(torch.Tensor.__rmatmul__)
def _reversed(one: Tensor, other: Tensor) -> Tensor:
    return _product(other, one)


@_handles(_getter("mT"))
def _transposed(one: Factored) -> Factored:
    return Factored(one.right.mT, one.left.mT, one.scale)


@_handles(torch.Tensor.__add__, torch.Tensor.add, torch.add, torch.Tensor.__radd__)
def _sum(one: Tensor, other: Tensor) -> Tensor:
    """In factors where both are; beside a tensor ``[d, d]`` another one costs no more."""
    if isinstance(one, Factored) and isinstance(other, Factored):
        parts = [part for part in (one, other) if part.left.shape[1]]
        scale = one.scale + other.scale
        if len(parts) < 2:
            return Factored(*((parts or [one])[0].left, (parts or [one])[0].right), scale)
        return Factored(torch.cat([one.left, other.left], dim=1), torch.cat([one.right, other.right]), scale)
    factored, whole = (one, other) if isinstance(one, Factored) else (other, one)
    assert isinstance(factored, Factored)
    own = torch.addmm(whole, factored.left, factored.right)
    own.diagonal().add_(factored.scale)
    return own


@_handles(torch.Tensor.__sub__, torch.Tensor.sub, torch.sub)
def _difference(one: Tensor, other: Tensor) -> Tensor:
    return one + (-1.0) * other


@_handles(torch.Tensor.__mul__, torch.Tensor.mul, torch.mul, torch.Tensor.__rmul__)
def _multiple(one: Any, other: Any) -> Factored:
    factored, factor = (one, other) if isinstance(one, Factored) else (other, one)
    if isinstance(factor, Tensor) and factor.ndim:
        raise _refused("mul", (factored,))
    return Factored(factored.left * factor, factored.right, factored.scale * float(factor))


@_handles(torch.Tensor.trace, torch.trace)
def _trace(one: Factored) -> Tensor:
    return (one.left.mT * one.right).sum() + one.scale * len(one.left)


@_handles(torch.Tensor.diagonal, torch.diagonal)
def _diagonal(one: Factored) -> Tensor:
    return (one.left.mT * one.right).sum(0) + one.scale


@_handles(torch.Tensor.to)
def _to(one: Factored, *args: Any, **kwargs: Any) -> Factored:
    return Factored(one.left.to(*args, **kwargs), one.right.to(*args, **kwargs), one.scale)


@_handles(torch.Tensor.cpu)
def _cpu(one: Factored) -> Factored:
    return _to(one, "cpu")  # type: ignore[no-any-return]


@_handles(torch.Tensor.any, torch.any)
def _any(one: Factored) -> Tensor:
    """Whether it is anything but zero, as far as its factors tell: a moment of rows is zero with the rows alone."""
    return torch.tensor(bool(one.scale)) | (one.left.any() & one.right.any())


@_handles(torch.Tensor.isfinite, torch.isfinite)
def _isfinite(one: Factored) -> Tensor:
    return torch.stack([one.left.isfinite().all(), one.right.isfinite().all()])


def trace_product(left: Tensor, right: Tensor) -> float:
    """``tr(A B)`` without forming the product."""
    if isinstance(left, Factored):
        return float((left.right * (right @ left.left).mT).sum()) + (
            left.scale * float(right.trace()) if left.scale else 0.0
        )
    if isinstance(right, Factored):
        return trace_product(right, left)
    return float((left * right.mT).sum())


def answer_energy(gram: Tensor, rows: Tensor) -> float:
    """``Σ‖W c‖²`` of rows ``c`` ``[n, d]`` for ``G = WᵀW`` in factors."""
    assert isinstance(gram, Factored)
    return float((rows @ gram.right.mT).square().sum())
