"""Megatron's distributed checkpoints (torch_dist): the model part, in any parallel layout.

| file | what it does |
|---|---|
| source.py | reads a checkpoint of ours or of a stock Megatron model |
| sink.py | writes a checkpoint that loads in any layout |
| names.py | the keys of stock Megatron models |
| args.py | the run's arguments that Megatron keeps in a checkpoint |
| model_config.py | model_config.json, which says what model a checkpoint of ours holds |
"""
