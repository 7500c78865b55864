"""Hugging Face folders, as people have them: config.json beside safetensors or torch files.

| file | what it knows |
|---|---|
| source.py | reads a folder |
| sink.py | writes a folder |
| weight_files.py | finds the files that hold the weights |
| torch_files.py | lists the tensors of a pytorch_model.bin |
| names.py | removes what wrappers put into names; knows tables that are computed and not trained |
| config_json.py, config_fields.py | read config.json as a model configuration |
| refusals.py | explains folders and files that are not read, and what to do with them |
"""
