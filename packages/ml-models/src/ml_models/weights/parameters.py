"""Which parameters a model has, by megatron-core's names, and their whole shapes."""

from ml_models.config import ModelConfig
from ml_models.weights.boxes import Shape


def parameter_shapes(
    model: ModelConfig, *, post_norms: bool, dense: bool = False, dense_mlp_width: int = 0
) -> dict[str, Shape]:
    """Every parameter of `model`; the vocabulary has no padding.

    With E experts of inner width F and hidden size H, linear_fc1 is [E, 2, F, H] (the gate's half,
    then the other) and linear_fc2 is [E, H, F]; `dense` leaves the axis of the experts out. A
    `dense_mlp_width` above 0 is the inner width of an MLP beside the experts.
    linear_qkv holds a block of rows per query group: its query heads, its key head, its value head.
    """
    hidden, head = model.hidden_size, model.kv_channels
    query = model.num_attention_heads * head
    qkv = query + 2 * model.num_query_groups * head
    shapes: dict[str, Shape] = {"embedding.word_embeddings.weight": (model.vocab_size, hidden)}
    # "pre_mlp" also where the MLP is a mixture of experts: megatron-core has one name for both.
    norms = ["input_layernorm", "pre_mlp_layernorm"]
    norms += ["post_attention_layernorm", "post_mlp_layernorm"] if post_norms else []
    experts, ffn = model.num_experts, model.ffn_hidden_size
    for layer in range(model.num_layers):
        name = f"decoder.layers.{layer}."
        shapes.update({f"{name}{norm}.weight": (hidden,) for norm in norms})
        shapes[f"{name}self_attention.linear_qkv.weight"] = (qkv, hidden)
        shapes[f"{name}self_attention.linear_proj.weight"] = (hidden, query)
        if dense:
            shapes[f"{name}mlp.linear_fc1.weight"] = (2, ffn, hidden)
            shapes[f"{name}mlp.linear_fc2.weight"] = (hidden, ffn)
            continue
        if dense_mlp_width:
            shapes[f"{name}dense_mlp.linear_fc1.weight"] = (2, dense_mlp_width, hidden)
            shapes[f"{name}dense_mlp.linear_fc2.weight"] = (hidden, dense_mlp_width)
        shapes[f"{name}mlp.router.weight"] = (experts, hidden)
        shapes[f"{name}mlp.experts.linear_fc1.weight"] = (experts, 2, ffn, hidden)
        shapes[f"{name}mlp.experts.linear_fc2.weight"] = (experts, hidden, ffn)
    shapes["decoder.final_layernorm.weight"] = (hidden,)
    if model.untie_embeddings_and_output_weights:
        shapes["output_layer.weight"] = (model.vocab_size, hidden)
    return shapes
