"""Layers that architectures share: attention, experts, a dense MLP, norms, the router."""
