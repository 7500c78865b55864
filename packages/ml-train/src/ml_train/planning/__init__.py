"""What a run needs of each device, known before any device is there.

A rank is built and does a training step on torch's meta device: tensors have shapes, dtypes and
storages of a size, but no memory and no values. The code that runs is the code that trains.

    meta_platform.py   a platform of such a device, with process groups that send nothing
    meta_values.py     what the host gets where it reads a value of a tensor without values
    routing.py         which experts the tokens go to, as real numbers
    meter.py           counts live bytes and records collectives while a rank runs
    rank_plan.py       builds a rank, runs a step of it, gives what was counted
    legality.py        the nearest layouts to an illegal one
    plan.py            the rank classes of a run together
"""
