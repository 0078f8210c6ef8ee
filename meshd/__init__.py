"""The meshd daemon: everything that touches the world around the protocol."""

__version__ = "0.1.0"
