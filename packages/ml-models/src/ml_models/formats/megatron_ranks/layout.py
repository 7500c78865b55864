"""The layout of a checkpoint with a file per rank, as its args say it."""

from dataclasses import dataclass

from ml_models.architecture import Settings
from ml_models.errors import WeightError

# Settings that put layers or experts elsewhere than an even division does.
ODD_LAYOUTS = (
    *("num_layer_list", "noop_layers", "automated_pipeline", "pipeline_model_parallel_layout"),
    *("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"),
    *("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"),
    *("standalone_embedding_stage", "encoder_pipeline_model_parallel_size"),
    *("encoder_tensor_model_parallel_size", "moe_tp_extend_ep", "moe_extended_tp"),
    *("use_pipe_experts", "schedules_method"),
)


@dataclass(frozen=True)
class Layout:
    """Sizes of the groups that the model was divided over; vp: virtual stages per stage."""

    tp: int
    pp: int
    ep: int
    vp: int

    def __str__(self) -> str:
        virtual = f", {self.vp} virtual stages per stage" if self.vp > 1 else ""
        return f"TP {self.tp}, PP {self.pp}, EP {self.ep}{virtual}"


def layout_of(settings: Settings, where: object) -> Layout:
    """The layout. Raises WeightError for one that does not divide layers and experts evenly."""
    sizes = []
    for name in (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "expert_model_parallel_size",
        "virtual_pipeline_model_parallel_size",
    ):
        size = settings.get(name)
        size = 1 if size is None and name.startswith(("expert", "virtual")) else size
        if type(size) is not int or size < 1:
            raise WeightError(f"{where}: {name} is {size!r} in its args, no size of a layout.")
        sizes.append(size)
    layout = Layout(*sizes)
    for name in ODD_LAYOUTS:
        if settings.get(name):
            raise WeightError(
                f"{where}: {name} is {settings[name]!r} in its args; only layouts that divide "
                "layers and experts evenly are read."
            )
    # Without the argument, experts are divided over TP like a dense MLP.
    expert_tp = settings.get("expert_tensor_parallel_size")
    if expert_tp not in (None, layout.tp):
        raise WeightError(
            f"{where}: expert_tensor_parallel_size is {expert_tp} in its args; it must be TP, "
            f"which is {layout.tp}."
        )
    return layout
