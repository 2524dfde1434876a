"""Mamba models, tasks and experiments behind the book "Mamba, Reproduced".

Layers, each importing only from those above it: ``ops`` (scans and convolutions as functions of
tensors), ``models``, ``tasks``, ``training``, ``analysis``, ``experiments``. Beside them stand
``config`` (configs as canonical JSON), ``store`` (records), ``claims`` (verdicts), ``runner`` and
``notebook`` (the command line's work) and ``figures``.

Glossary of axis letters, used in every shape in this package:

======  =============================  =====================================================
letter  name in the code               meaning (paper letter: Mamba / Mamba-2)
======  =============================  =====================================================
b       batch                          sequences trained on together (B)
l       length                         time steps, tokens in a sequence (L / T)
v       vocab_size                     tokens that the model knows
m       d_model                        width of the residual stream (D)
d       d_inner = expand * d_model     channels inside a block (E D)
n       d_state                        size of the state of one channel (N)
h, p    n_heads, headdim               Mamba-2: d_inner = h * p (H, P)
g       n_groups                       heads or channels that share B and C (G)
k       d_conv                         taps of the causal convolution
c, q    chunks, position in a chunk    chunked algorithms only (Q is the chunk length)
r       dt_rank                        Mamba-1: rank of the map that makes dt (R)
a       n_angles                       Mamba-3: pairs of state entries that turn
======  =============================  =====================================================
"""

__version__ = "0.1.0"
