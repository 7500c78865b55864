"""Megatron's per-rank checkpoints, which ModelLink, MindSpeed-LLM and Megatron-LM (torch) write.

```
latest_checkpointed_iteration.txt      "5000", or "release"
iter_0005000/mp_rank_TT[_PPP][_EEE]/   tensor, pipeline and expert rank; PPP only if PP > 1, EEE
                                       only if EP > 1
    model_optim_rng.pt                 torch.save of the dict below
    distrib_optim.pt                   the distributed optimizer's state; not read

args                  argparse.Namespace: model and layout
checkpoint_version    3.0
iteration             steps done
model                 name -> tensor; with V > 1 virtual stages model0 ... model{V-1}
optimizer, opt_param_scheduler, rng_state, num_floating_point_operations_so_far    not read
```
Layers are numbered from 0 in each model chunk: with n = L / (P V) layers per chunk, chunk v of
stage p begins with layer v L / V + p n. Each TP rank has its rows of linear_qkv (whole groups), of
the vocabulary and of both halves of linear_fc1 (gate rows, then value rows), and its columns of
linear_proj and linear_fc2; experts are divided over TP like a dense MLP. Norms and the router are
the same on all TP ranks, and all but the experts on all EP ranks. `_extra_state` holds no weights.

| parameter | name in the file |
|---|---|
| post_attention_layernorm | post_attn_norm |
| expert e (SequentialMLP) | mlp.experts.local_experts.e.linear_fc1.weight [2F/TP, H], linear_fc2 |
| experts (GroupedMLP) | mlp.experts.weight1, weight2: [E, H, 2F/TP] and [E, F/TP, H] in memory |
| expert e (TransformerEngine) | mlp.experts.linear_fc1.weighte, linear_fc2.weighte |
| input_layernorm (TransformerEngine) | self_attention.linear_qkv.layer_norm_weight |
| output_layer of a tied model | a copy of the embedding on the last stage, if P > 1 |

Where this was read:
NVIDIA/Megatron-LM core_r0.6.0 (the guide's) and core_v0.12.1: megatron/training/checkpointing.py
get_checkpoint_name, save_checkpoint, generate_state_dict; megatron/core/transformer:
transformer_block.py get_num_layers_to_build, transformer_layer.py _get_layer_offset, mlp.py,
moe/moe_layer.py, moe/experts.py; megatron/core/models/gpt/gpt_model.py.
ModelLink as of July 2024 (aeeeeeep/ModelLink bc0b4076): modellink/checkpointing.py (saving is
Megatron's own), modellink/arguments.py, modellink/core/transformer/transformer_layer.py
(post_attn_norm, post_mlp_layernorm), modellink/core/models/gpt/gpt_layer_specs.py; later
Ascend/MindSpeed-LLM c77308a1 mindspeed_llm/tasks/models/spec/grok_spec.py has the same names.
Ascend/MindSpeed b5d901bf mindspeed/core/fusions/rotary_pos_embedding.py: no rotary_base is 10000.
Ascend/pytorch v2.1.0 torch_npu/utils/storage.py: an NPU storage is saved as a CPU one.
No code was taken over.
"""
