"""The meshd protocol: signed objects, datagrams, the store and the automaton.

Pure: no socket, clock, file, log or thread.  ``protocol/SPEC.md`` has every byte.
"""
