"""Parquet and JSON lines to tokenized, memory-mapped .bin/.idx files, as Megatron writes them."""

__version__ = "1.0.0"
