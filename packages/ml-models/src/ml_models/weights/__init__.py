"""A model's weights, whatever format they are stored in.

| file | what it does |
|---|---|
| parameters.py | says which parameters a model has |
| boxes.py, blocks.py | blocks of tensors: their ranges, and their numbers put together |
| maps.py | says which block of a parameter is which block of a format's tensor |
| source.py, sink.py | what every format that is read, or written, offers |
| arrays.py, archives.py, safetensors.py, listed.py | where tensors lie in files |
"""
