"""How long a training step takes, as a range.

work.py            what a rank computes and sends, in units that no device decides
recorder.py        that of a built rank, from the operators that it dispatches
facts.py, job.py   sizes of a model and of a division, from which closed_form.py computes the
                   same without building (layer_work.py, layer_messages.py)
rates.py           the shares of a device's peaks that runs reach
step_time.py       seconds of a step, by what takes them
"""
