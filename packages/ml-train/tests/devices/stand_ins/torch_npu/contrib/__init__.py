"""Parts of torch_npu that a user imports by name."""
