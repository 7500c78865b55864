"""A model's weights independent of any format: blocks of tensors, maps, sources and sinks."""
