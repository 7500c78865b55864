"""AdamW with its step in the parameter group, as apex, TransformerEngine and MindSpeed keep it."""

from typing import Any

import torch


class FusedAdam(torch.optim.Optimizer):
    """apex's and TransformerEngine's: an int, made at the first update."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        capturable: bool = False,
    ) -> None:
        assert adam_w_mode and not capturable
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def count(self, group: dict[str, Any]) -> int:
        """The number of this update."""
        group["step"] = group["step"] + 1 if "step" in group else 1
        assert type(group["step"]) is int
        return group["step"]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """The formula of torch.optim.AdamW."""
        for group in self.param_groups:
            number = self.count(group)
            (first, second), lr = group["betas"], group["lr"]
            for parameter in (p for p in group["params"] if p.grad is not None):
                state = self.state[parameter]
                for name in ("exp_avg", "exp_avg_sq"):
                    if name not in state:
                        state[name] = torch.zeros_like(parameter)
                gradient = parameter.grad.to(parameter.dtype)
                state["exp_avg"].lerp_(gradient, 1 - first)
                state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                scale = state["exp_avg_sq"].sqrt() / (1 - second**number) ** 0.5 + group["eps"]
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.addcdiv_(state["exp_avg"], scale, value=-lr / (1 - first**number))


class DeviceStepAdam(FusedAdam):
    """MindSpeed's AdamW: a tensor on the device, whose methods it calls."""

    # The class is recognised by its package.
    __module__ = "mindspeed.core.optimizer.adamw"

    def count(self, group: dict[str, Any]) -> int:
        """The number of this update."""
        device = group["params"][0].device
        if "step" in group:
            group["step"] += 1
            if group["step"].is_cpu:
                group["step"] = group["step"].to(device)
        else:
            group["step"] = torch.tensor(1, dtype=torch.int64, device=device)
        return int(group["step"])


KINDS = {"apex": FusedAdam, "mindspeed": DeviceStepAdam}


def use(kind: str) -> None:
    """Make it the Adam that megatron-core takes."""
    import megatron.core.optimizer
    import megatron.core.optimizer.distrib_optimizer

    for module in (megatron.core.optimizer, megatron.core.optimizer.distrib_optimizer):
        module.Adam = KINDS[kind]
    megatron.core.optimizer.USING_PYTORCH_OPTIMIZER = False
    # MindSpeed answers for apex where megatron-core imports it.
    megatron.core.optimizer.distrib_optimizer.HAVE_APEX_OR_TE = True
