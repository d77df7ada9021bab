"""Free TCP ports on 127.0.0.1 for servers that are stopped and started again. Owns nothing: a port is only picked.

They lie below the system's range for outgoing connections. In that range, a client that keeps trying a stopped server's
port can be given that very port as its own, and so connect to itself, and the server can't bind when it comes back.
"""

import random
import socket

_FIRST, _LAST = 20_000, 32_000
_TRIES_MAX = 1_000


def free_ports(count: int) -> tuple[int, ...]:
    """`count` different ports that nobody listens on now."""
    found: set[int] = set()
    for _ in range(_TRIES_MAX):
        if len(found) == count:
            return tuple(found)
        port = random.SystemRandom().randint(_FIRST, _LAST)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.add(port)
    raise RuntimeError(f"no {count} free ports from {_FIRST} to {_LAST}")
