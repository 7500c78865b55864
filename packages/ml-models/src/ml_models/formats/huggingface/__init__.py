"""Hugging Face folders, as people have them: config.json beside safetensors or torch files.

| file | what it knows |
|---|---|
| weight_files.py | which files hold the weights: one, those of an index, shards without an index |
| safetensors_files.py, torch_files.py | tensors of one file: name, shape, dtype, place |
| names.py | prefixes that wrappers leave in names; buffers that are computed and not trained |
| config_json.py, config_fields.py | config.json as a model configuration |
| refusals.py | folders and files that are not read: what they hold, and what to do |
| source.py | all of it together, as a Source |
"""

from ml_models.formats.huggingface.config_json import config_of, read_config
from ml_models.formats.huggingface.source import HuggingFaceSource
from ml_models.weights.safetensors import header_bytes, read_header

__all__ = ["HuggingFaceSource", "config_of", "header_bytes", "read_config", "read_header"]
