"""Tensors of a run as megatron-core's torch_dist format holds them."""
