"""Mixture-of-experts architectures on megatron-core: Grok-1, Grok-2 and Mixtral."""

__version__ = "1.0.0"
