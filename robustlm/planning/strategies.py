"""How a strategy divides what a step holds among devices, and what it adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustlm.planning.step import Weights
from robustlm.planning.trace import Part

_BUCKET = 2e8
"""Numbers in a bucket of DeepSpeed, by the default of Lightning's `DeepSpeedStrategy`."""
_LIVE = 1e9
"""Most weights that DeepSpeed's stage 3 keeps whole, by the default of Lightning's `DeepSpeedStrategy`."""


@dataclass(frozen=True)
class Sharding:
    """A strategy on a number of devices."""

    name: str
    """`single`, `ddp`, `fsdp2`, `deepspeed_stage_2` or `deepspeed_stage_3`."""
    devices: int

    @property
    def deep(self) -> bool:
        """Whether DeepSpeed runs it. It keeps weights in 16 bits, and copies of the trained ones in fp32."""
        return self.name.startswith("deepspeed")

    @property
    def shares(self) -> dict[Part, float]:
        """The share of each part that one device holds, where it is not all of it."""
        part = 1 / self.devices
        if self.name == "fsdp2" or self.name == "deepspeed_stage_3":
            return {"frozen weights": part, "trained weights": part, "gradients": part, "optimiser": part}
        if self.name == "deepspeed_stage_2":
            return {"gradients": part, "optimiser": part}
        return {}

    def extra(self, weights: Weights, gradients: float, halved: bool) -> tuple[float, str]:
        """Bytes that the strategy itself holds on each device, and what they are.

        Args:
            weights: Of the model.
            gradients: Bytes of the gradients.
            halved: Whether the step computes in 16 bits.
        """
        if self.devices == 1:
            return 0.0, ""
        if self.name == "ddp":
            return gradients, "buckets, as large as the gradients (torch's DistributedDataParallel)"
        if self.name == "fsdp2":
            return (
                2.0 * weights.layer_bytes + weights.table_bytes,
                "two whole layers and one table of embeddings (FSDP2 gathers the next layer during the last one)",
            )
        # fp32 copies of the trained weights, and moments in fp32 where the trace has them in 16 bits
        masters = (4.0 + 4.0) * weights.trained / self.devices if halved else 0.0
        if self.name == "deepspeed_stage_2":
            return masters + 2 * 2 * min(_BUCKET, weights.trained), (
                "fp32 copies of trained weights, fp32 moments, and two buckets"
            )
        live = min(_LIVE, weights.frozen + weights.trained)
        return masters + 2 * live, ("fp32 copies of trained weights, fp32 moments, and gathered weights (10⁹ at most)")


def sharding_of(strategy: Any, devices: int) -> Sharding:
    """The sharding that `trainer.strategy` stands for.

    Args:
        strategy: Its value, as plain data: null, a name of Lightning, or a class path and its arguments.
        devices: Number of devices, over all nodes.

    Raises:
        ValueError: The strategy is not one that is planned for.
    """
    settings = strategy.get("init_args") or {} if isinstance(strategy, Mapping) else {}
    name = str(strategy.get("class_path") if isinstance(strategy, Mapping) else strategy).rsplit(".", 1)[-1]
    if name in ("None", "auto", "ddp", "DDPStrategy") or name.startswith("ddp_"):
        return Sharding("ddp" if devices > 1 else "single", devices)
    if name == "FSDP2":
        return Sharding("fsdp2", devices)
    stage = {"deepspeed": 2, "DeepSpeedStrategy": int(settings.get("stage") or 2)}.get(name)
    for number in (2, 3):
        if stage == number or name == f"deepspeed_stage_{number}":
            return Sharding(f"deepspeed_stage_{number}", devices)
    raise ValueError(
        f"trainer.strategy: found {name!r}, which is not planned for; expected ddp, or one of the packaged configs "
        "`-c trainer/fsdp2`, `-c trainer/deepspeed2`, `-c trainer/deepspeed3`"
    )
