"""Mixture-of-experts architectures on megatron-core: Grok-1 and Mixtral."""

__version__ = "1.0.0"
