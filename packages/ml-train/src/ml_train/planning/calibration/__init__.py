"""A device file from measurements of this machine: `ml-train plan --calibrate FILE.toml`.

What is measured is what a training step is made of: matrix products by size, operations by bytes,
the host's cost of a kernel, messages between processes by bytes. Processes of one machine share
its cores and its memory, so everything is measured with 1, 2, 4, ... processes at once.

    curve.py        seconds by size, between and beyond the sizes that were measured
    products.py     seconds of a matrix product, from a grid of measured ones
    operations.py   which measured operation stands for an operation of a step
    measured.py     all figures of a number of processes, and how a device file holds them
    device_file.py  reads and writes the file
    worker.py       a process that measures; timing.py: how it takes the time of an action
    computing.py    measures products and operations; messages.py: messages
    reference_steps.py  measures whole steps: the host's part, and what a kernel takes in a step
    run.py          starts the workers and writes the file
"""
