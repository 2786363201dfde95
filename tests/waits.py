"""Counts the operations for which the host would wait for a GPU; they are found on the CPU."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_SYNCHRONISING = {
    "_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal", "is_nonzero", "unique_dim",
    "_unique2", "_unique", "unique_consecutive", "unique_dim_consecutive", "allclose",
}  # fmt: skip
"""Operations that need a value of the device, or whose result has a shape that depends on one."""

_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
"""Operations that wait if an index is a mask."""

_CONVERSIONS = {"tolist", "numpy", "cpu"}
"""Methods that bring values to the host, and reach no dispatcher on the CPU."""

_MAKERS = {"tensor", "as_tensor"}
"""Functions that copy values of the host to a device that is given, and wait for the copy."""


class _Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _SYNCHRONISING or (name in _INDEXED and any(_is_mask(one) for one in args[1])):
            self._note(name)
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            self._note(name)
        return func(*args, **(kwargs or {}))


class _Called(TorchFunctionMode):
    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        moves = name in _MAKERS and kwargs.get("device") is not None and not isinstance(args[0], Tensor)
        if name in _CONVERSIONS or name == "new_tensor" or moves:
            self._note(name)
        return func(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Count, inside this context, the operations for which a GPU would make the host wait, by name and place."""
    found: Counter[str] = Counter()

    def note(name: str) -> None:
        frames = [f for f in traceback.extract_stack() if f.filename != __file__]
        torch_home, optimisers = Path(torch.__file__).parent, Path(torch.optim.__file__).parent
        own = [f for f in frames if not Path(f.filename).is_relative_to(torch_home)]
        steps = [f for f in frames if Path(f.filename).is_relative_to(optimisers)]
        frame = max(own[-1:] + steps[-1:], key=frames.index)
        place = "torch/optim" if frame in steps else f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.name}"
        found[f"{name} at {place}"] += 1

    with _Called(note), _Dispatched(note):
        yield found
