"""The forms of attention, and which serves where. docs/kernels.md has the table."""

from ml_models.kernels.selection import ANY_DEVICE, Form, Operation, Request

ATTENTION = Operation(
    name="attention",
    forms=(
        Form(name="reference", text="full score matrices in torch operations"),
        Form(name="blocked", text="blocks of queries in torch operations, recomputed backward"),
    ),
    order={ANY_DEVICE: ("blocked",)},
    requests={
        "unfused": Request(flag="--attention-backend unfused", forms=("reference",)),
        "local": Request(flag="--attention-backend local", forms=("blocked",)),
    },
)
