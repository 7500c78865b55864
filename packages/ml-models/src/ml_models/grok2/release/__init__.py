"""The format of xAI's release of Grok-2: safetensors that are cut for the ranks of an engine.

```
pytorch_model-KKKKK-TP-common.safetensors   whole tensors of one kind, of all layers
pytorch_model-KKKKK-TP-RRR.safetensors      rank RRR's slices, under the names of the whole tensors
config.json                                 as in the plain form; there is no index
```
| file | what it does |
|---|---|
| layout.py | kinds of tensors, names of files, which axis is cut, the weight map of the slices |
| format.py | offers the format to the converter |
| source.py | reads a folder, and names files that are missing or mixed |
| swaps.py | looks for files of two ranks that were exchanged or copied |
| sink.py | writes a folder for any number of ranks |
"""
