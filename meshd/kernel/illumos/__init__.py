"""illumos: routes by ``route``, NAT exclusion by ``ippool`` or ``ipnat``.

Nothing of this has run on an illumos kernel; docs/illumos.md says what was checked, and how.
"""
