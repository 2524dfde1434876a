"""GPU kernels in Triton; the modules beside this package register them as the backend "fused".

On a processor they run only in Triton's interpreter (``TRITON_INTERPRET=1`` before triton is
imported): slow, and meant for tests.
"""
