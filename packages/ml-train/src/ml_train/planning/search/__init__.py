"""Which layout of a number of devices to choose: `ml-train plan --search`.

space.py         every legal layout, with micro batch sizes and recomputation
parameters.py    the parameters of a layer and of the ends of the pipeline, from built ranks
state_bytes.py   parameters, gradients and optimizer state of a rank in closed form
"""
