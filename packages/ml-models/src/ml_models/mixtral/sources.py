"""Where each choice of Mixtral's named models comes from, for `ml-models show`."""

SHARED_BY_TINY = (
    *("rotary_base", "norm_epsilon", "num_experts", "moe_router_topk"),
    *("untie_embeddings_and_output_weights", "init_method_std"),
)


def source_of(model_name: str, field: str) -> str:
    """The source of a field of the model called `model_name`, in a line."""
    if model_name == "mixtral-tiny" and field == "vocab_size":
        return "the shipped tokenizer, which is Grok-1's"
    if model_name == "mixtral-tiny" and field not in SHARED_BY_TINY:
        return "ours: small, every feature of the architecture"
    if field == "init_method_std":
        return "Megatron's default, which is transformers' as well"
    return "mistralai/Mixtral-8x7B-v0.1 config.json"
