"""Parquet and JSON lines to tokenized, memory-mapped .bin/.idx files, byte-compatible with Megatron."""

__version__ = "1.0.0"
