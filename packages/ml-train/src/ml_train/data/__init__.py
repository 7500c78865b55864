"""Token files (.bin/.idx) to batches: sample indexes, splits, blends, and loaders.

| file | what it does, in the order of a start |
|---|---|
| request.py, demand.py | say what a run asks of its data, and how many sequences it takes |
| settle.py | leading ranks check the files and settle the order of each split |
| files.py, manifest.py | read the content of a pair; check its manifest and tokenizer |
| selection.py | chooses the documents of each split |
| resume.py | holds a checkpoint's orders against the data of this start |
| order.py, blend.py | order, part and leg of a run; megatron-core's rule for blends |
| index_build.py, index_job.py | leading ranks build sample indexes, in a process of its own |
| index_cache.py | reads and writes the folders of the index cache |
| leaders.py | lets ranks wait for the answer of a leading rank |
| loaders.py, open.py | open the streams of train, valid and test |
| sequences.py, mock.py | give a sequence by its number: from token files, or made up |
| stream.py | gives the micro batches of a rank |
| origin.py | leads from a sequence to its documents; catches ids outside the vocabulary |
| epochs.py, facts.py | what is told at the start, and what nodes compare |

This file imports nothing: commands check their configuration before they import torch.
"""
