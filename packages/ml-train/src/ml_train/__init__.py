"""The parallel training loop for mixture-of-experts models on megatron-core."""

__version__ = "1.0.0"
