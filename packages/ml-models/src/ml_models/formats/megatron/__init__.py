"""Megatron's distributed checkpoints (torch_dist): the model part, in any parallel layout.

| file | what it does |
|---|---|
| source.py | reads a checkpoint of ml-models or of a stock Megatron model |
| sink.py | writes a checkpoint that loads in any layout |
| names.py | the keys of stock Megatron models |
| common.py | finds the arguments of the run that a checkpoint keeps |
| args.py | compares these arguments with a model, or derives the model |
| model_config.py | model_config.json, which says what model a checkpoint of ml-models holds |
"""
