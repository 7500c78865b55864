"""Megatron's .bin/.idx format with a manifest beside it: write, publish, read, verify."""
