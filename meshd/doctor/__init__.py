"""``meshd doctor``: what on this host breaks routing, with the command that mends it.

``gather`` looks and changes nothing; the checks are pure, from ``Facts`` to findings.
"""
