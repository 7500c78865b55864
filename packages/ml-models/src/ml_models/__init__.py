"""Mixture-of-experts architectures on megatron-core: Grok-1 and Mixtral, with weight conversion both ways."""

__version__ = "1.0.0"
