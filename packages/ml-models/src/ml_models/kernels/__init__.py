"""Operations of the layers: per operation its reference formula and its faster forms.

| file | operation |
|---|---|
| attention/ | causal grouped-query attention |
| experts/ | the products of all experts of a rank |
| norm.py | RMSNorm |
| activation.py | activations by name, and the gated product between an expert's products |
| rotary.py | rotary positions |

`selection.py` says how a form is chosen, `table.py` lists the forms of each operation. Neither
imports torch.
"""
