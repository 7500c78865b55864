"""What a training step of a layer costs, counted on no device: kernels, bytes, FLOPs, host waits.

| file | what it does |
|---|---|
| layer_step.py | one layer's forward and backward pass on fake tensors, for a rank |
| recorder.py | records each operation that the step dispatches |
| operations.py | bytes and FLOPs of an operation, from its arguments |
| stand_ins.py | what reports to the recorder where fake tensors cannot run |
| fused_attention.py | attention kernels of a GPU, as the step launches them |
| compiled.py | asks torch.compile's scheduler into which kernels it fuses a function |
| routed_counts.py | values of the small integers that a step reads on the host |
| tiles.py | share of its rate that a product loses to the start and the end of tiles |
| device.py | seconds of a kernel on a stated device, and the bound of a step |

benchmarks/device/roofline.py prints it.
"""
