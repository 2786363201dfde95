"""Divides the weights of a loaded model among devices (FSDP2, `torch.distributed.fsdp.fully_shard`)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from robustlm.models.loaded import LoadedModel
from robustlm.models.loading import Loading
from robustlm.models.tuning import FullTuning, LoRA, Tuning


def check_shardable(loading: Loading, tuning: Tuning | None) -> None:
    """Raise `ValueError` for settings of a model that cannot be divided, before its weights are read."""
    if loading.four_bit:
        raise ValueError(
            "loading.four_bit: 4-bit weights and their scales cannot be divided by FSDP2; expected false, or "
            "trainer.strategy ddp"
        )
    if not isinstance(tuning, LoRA | FullTuning):
        raise ValueError(
            f"tuning: FSDP2 cannot divide the weights of {type(tuning).__name__}, which are read outside of the "
            "layers; expected LoRA or FullTuning, or trainer.strategy ddp"
        )


def shard(loaded: LoadedModel, mesh: DeviceMesh) -> None:
    """Divide the weights of a model. Each layer, table and norm gathers its own while it runs.

    Layers, the embeddings and the head are called one by one, in decoding also without the model around them. So each
    module that holds weights outside of the layers is divided alone, and the model as a whole holds none.

    Args:
        loaded: The model, wrapped and with its trained weights chosen.
        mesh: The devices, in one dimension.

    Raises:
        ValueError: A trained weight belongs to two modules; it would be divided twice, and trained apart.
    """
    base: Any = loaded.base
    table, head = base.get_input_embeddings(), base.get_output_embeddings()
    tied = head is not None and head.weight is table.weight
    if tied and table.weight.requires_grad:
        raise ValueError(
            "tuning: FullTuning trains a table of embeddings that is also the head, which FSDP2 cannot divide; "
            "expected tuning.freeze_embeddings: true, or trainer.strategy ddp"
        )
    whole = {table.weight} if tied else set()  # frozen, and needed in two places: each device keeps it
    for layer in layers_of(base):
        fully_shard(layer, mesh=mesh)
    for module in list(base.modules()):
        own = [p for p in module.parameters(recurse=False) if not isinstance(p, DTensor)]
        if own and not any(p is one for p in own for one in whole):
            fully_shard(module, mesh=mesh)
    fully_shard(base, mesh=mesh, ignored_params=whole)
    state = base._get_fsdp_state()
    # FSDP2 takes the module that runs first for the outermost one, but embeddings are looked up before the model runs
    table.register_forward_pre_hook(lambda *_: state._lazy_init(), prepend=True)


def layers_of(base: nn.Module) -> list[nn.Module]:
    """The transformer layers of a model: the children of its largest lists of modules, an encoder's and a decoder's."""
    lists = [list(m) for m in base.modules() if isinstance(m, nn.ModuleList) and len(m)]
    sizes = [sum(p.numel() for p in one[0].parameters()) for one in lists]
    return [layer for one, size in zip(lists, sizes, strict=True) if 2 * size >= max(sizes) for layer in one]


def whole(value: Tensor) -> Tensor:
    """A tensor that is divided among devices, gathered on each; others unchanged. Call it on every rank."""
    return value.full_tensor() if isinstance(value, DTensor) else value
