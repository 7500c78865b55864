"""A cluster job starts up on a laptop: everything that would fail there, before it is paid for.

    rehearse.py        the straight line: the checks one after another, then the run at toy width
    checks.py          the table of the checks, and which sections of the configuration each needs
    job.py             what is rehearsed: a configuration, a device, a number of processes
    finding.py         what a check gives: a subject, what is wrong, the fix
    report.py          findings as a table and as a JSON document

| file | its check |
|---|---|
| settings.py | rules of the configuration, settings without effect |
| layouts.py | legality, forms of kernels, the backend, the line of megatron-core |
| versions.py | megatron-core, torch and the rest, here and in lists of the cluster's packages |
| ranks.py | every kind of rank is built and does a step; its memory against the device's |
| tokens.py | token files, manifests, tokenizer, split, and the order of a resume |
| indexes.py | room for the sample indexes, and how often the data is repeated |
| storage.py | the folders of checkpoints and logs: may they be written, and have they the room |
| resume.py | the checkpoint that the run begins with: whole, of this model, for this layout |
| toy.py | the same kind of job on real processes: trained, killed, resumed |

A check calls what a start of training calls, and collects its errors. It writes into temporary
folders alone.
"""
