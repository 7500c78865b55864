"""What a run needs of each device, known before any device is there.

A rank is built and does a training step on torch's meta device: tensors have shapes, dtypes and
storages of a size, but no memory and no values. The code that runs is the code that trains.

    meta_platform.py   a platform of such a device
    fake_groups.py     process groups of a rank without peers, which send nothing
    meta_values.py     what the host gets where it reads a value of a tensor without values
    uneven_pieces.py   collectives of unequal pieces, as a device does them
    leaves.py          tensors among an operator's arguments
    routing.py         which experts the tokens go to, as real numbers
    meter.py           counts live bytes and records collectives while a rank runs
    held.py            what a rank holds between steps; traffic.py: what it sends in a step
    rank_plan.py       builds a rank, runs a step of it, gives what was counted
    long_pipeline.py   a rank with many micro batches in flight, from a step with two
    time/              how long a step takes; recorded_work.py: the work of a built rank for it
    run_time.py        how long the run takes; time_report.py: in words, a table and JSON
    plan.py            the classes of ranks of a run; advice.py: what would make room
    legality.py        which layouts are legal, and the nearest of them
    target.py          the device that a run is planned for
    calibration/       figures of this machine from measurements, and a step's time from them
    report.py          tables and a JSON document
    plot.py            a picture; pipeline.py: when each stage computes which micro batch
"""
