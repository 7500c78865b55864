"""What a training step of a layer costs, counted on no device: kernels, bytes, FLOPs, host waits.

| file | what it does |
|---|---|
| layer_step.py | one layer's forward and backward pass on fake tensors, for a rank |
| recorder.py | records each operation that the step dispatches |
| operations.py | bytes and FLOPs of an operation, from its arguments |
| stand_ins.py | what reports to the recorder where fake tensors cannot run |
| packages.py | which packages count as installed there |
| stand_in_kernel.py | a kernel with gradients on tensors without values |
| fused_attention.py | attention kernels of a GPU, as the step launches them |
| fused_norm.py | torch's fused norm, in the same way |
| npu_kernels.py | torch_npu's kernels, in the same way |
| largest_blocks.py | attention in blocks, of which only the largest run |
| target_forms.py | the forms that a device would use, chosen and run without it |
| compiled.py | asks torch.compile's scheduler into which kernels it fuses a function |
| routed_counts.py | values of the small integers that a step reads on the host |
| tiles.py | share of its rate that a product loses to the start and the end of tiles |
| device.py | seconds of a kernel on a stated device, and the bound of a step |

benchmarks/device/roofline.py prints it.
"""
