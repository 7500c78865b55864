"""Streaming weight conversion with an audit, and the model part of the checkpoint format."""
