"""FSDP2: each process holds a share of the weights, gradients and optimiser state, and gathers a layer when it runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.constants import default_pg_timeout

from robustlm.modules.checkpointed import Checkpointed


class FSDP2(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy` over all processes, without tensor parallelism.

    Checkpoints are single files with whole tensors, as those of other strategies, so that a run can be resumed and
    tested on any number of devices. Only `fit` runs under this strategy.

    Args:
        process_group_backend: As in Lightning; null: NCCL on GPUs, gloo on CPUs.
        timeout: How long a process waits for the others.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            data_parallel_size=1,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Take all processes as one data-parallel group."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Refuse runs with evaluations, in which processes take different numbers of passes and wait forever."""
        if trainer.state.fn != "fit":
            raise ValueError(
                f"trainer.strategy: found FSDP2 in {trainer.state.fn}; expected ddp or one device, because answers "
                "take another number of passes on each process; a checkpoint of FSDP2 can be tested so"
            )
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The trained weights, whole, on rank 0; empty on other ranks. Frozen weights are in no checkpoint."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Divide the trained weights and the optimiser state of a checkpoint among the processes.

        Raises:
            ValueError: The checkpoint does not fit the model.
        """
        path = Path(self.broadcast(checkpoint_path))
        module = cast(Checkpointed, self.lightning_module)
        if not path.is_file():
            raise ValueError(f"ckpt_path: {path} is not a file; expected a checkpoint that `robustlm fit` wrote")
        module.check_weights(torch.load(path, mmap=True, map_location="cpu", weights_only=True)["state_dict"])
        module.strict_loading = False  # frozen weights are in no checkpoint
        return super().load_checkpoint(path, weights_only=True if weights_only is None else weights_only)
