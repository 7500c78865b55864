"""Safe reading and durable writing of files: what every format and every checkpoint needs.

| file | what it does |
|---|---|
| pickles.py | interprets pickle streams; nothing in them is run |
| inert.py | what an interpreted stream consists of |
| allow_lists.py | which names a stream may mention, by the kind of file |
| pickle_writer.py | writes pickle streams without the classes that they name |
| torch_zip.py, slices.py | archives of torch.save, as a file or a part of a file |
| distributed.py | pickles of distributed checkpoints: checked, read, written |
| durable.py | writes a file under a temporary name, flushes it to the disk, renames it |
| hashes.py | computes checksums of files, and of streams while they are written |
| integrity.py | records sizes and checksums of a folder and compares them later |
| placeholders.py | recognises files that a failed download left in place of the real ones |
| json_files.py | reads a JSON file or says in one sentence why it cannot be read |
"""
