"""The comparison: meshd and what people would use instead, in the same namespaces in the same run.

``scenarios`` says what there is to measure, ``measure`` goes through it: a ``Stage`` is a lab with
one system's daemons, ``starting``, ``changing``, ``cutting`` and ``resting`` are what is done on
it.  ``samples`` is a file that only grows, ``table`` and ``picture`` show what is in it.
"""
