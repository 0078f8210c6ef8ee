"""The soak: real daemons under faults without end, and rules that must hold all the while.

``world`` knows what should be, from what was done and from the design alone; ``faults`` draws what
happens next from it; ``deeds`` does that to a lab; ``traffic`` sends between all private zones all
the time; ``checks`` holds kernels, daemons and wires against the world; ``rounds`` is the loop and
``command`` is ``scripts/soak``.
"""
