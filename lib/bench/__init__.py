"""How fast, against whom, and how far from the device's limit: ``python -m lib bench``.

Contestants are timed in turns in one run, so every figure is a ratio that noise of the machine
meets on both sides. ``measure`` holds the method, ``floor`` the limit, ``compare`` makes a record
of both; ``scan``, ``block``, ``step``, ``sweep`` and ``cpu`` say what is compared. The experiments
``foundations.bench_*`` run them, so their records are stored, listed and published as all others.
"""
