"""What a mesh of real daemons costs and stands, measured in namespaces that are made for it.

Each module is one scenario: ``NAME``, ``HELP`` (one line) and ``run``, which returns a value
that says what was asked for and what was seen, and nothing of whether that is good.
"""
