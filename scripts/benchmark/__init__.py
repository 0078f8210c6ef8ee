"""Benchmarks: what meshd costs, always beside a floor or another system in the same run.

Machines are noisy, so ratios are what counts: whatever is compared is measured in turns, run by
run.  One module a scenario (``scenarios`` lists them) with ``NAME``, ``HELP``, ``arguments`` and
``run``, which returns a ``Report``; ``command`` is ``scripts/bench``.
"""
