"""Ports for servers that come and go."""

import random
import socket
from contextlib import closing, suppress


def free_port() -> int:
    """A port below those that the kernel gives out by itself: nobody else gets it while its server is away."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
            return port
