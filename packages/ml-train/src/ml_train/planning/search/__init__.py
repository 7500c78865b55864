"""Which layout of a number of devices to choose: `ml-train plan --search`.

space.py         every legal layout, with micro batch sizes and recomputation
parameters.py    the parameters of a layer and of the ends of the pipeline, from built ranks
state_bytes.py   parameters, gradients and optimizer state of a rank in closed form
activations.py   the peak of the passes, linear in what small ranks were measured to need
ranking.py       the time of a step of every layout
search.py        builds the best; reasons.py: why the others lose
report.py        the ranking as a table and as JSON; progress.py: what is shown meanwhile
"""
