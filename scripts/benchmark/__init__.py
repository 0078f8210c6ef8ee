"""Benchmarks: what meshd costs, always beside a floor or another system in the same run.

Machines are noisy, so ratios are what counts.  ``comparison`` does the same to meshd and to what
people would use instead; other scenarios have a module each (``scenarios`` lists them) with
``NAME``, ``HELP``, ``arguments`` and ``run``, which returns a ``Report``, and measure in turns what
they compare.  ``command`` is ``scripts/bench``.
"""
