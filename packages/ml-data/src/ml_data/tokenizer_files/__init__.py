"""What the files of a tokenizer hold, without encoding anything.

`ml_data.tokenizers` chooses an engine by these facts. Nothing here imports it.
"""
