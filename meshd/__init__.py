"""The meshd daemon: everything that touches the world around the protocol."""

import select

__version__ = "0.1.0"

if not hasattr(select, "epoll"):
    from meshd import polling

    polling.stand_in()
