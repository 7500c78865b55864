"""The format of xAI's release of Grok-1: the folder ckpt-0 and the settings of its run.py.

| file | what it does |
|---|---|
| format.py | offers the format to the converter |
| source.py | reads ckpt-0 |
| sink.py | writes a folder that xAI's program reads |
| quantize.py | chooses int8 numbers and their scales |
| config.py | reads and writes the settings of run.py |
"""
