"""Telling the service manager how far a server is.

See Also:
    sd_notify(3); systemd.service(5), Type=notify.
"""

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send a state, such as ``READY=1``, to who has started us, if it wants to be told; whoever does not listen misses it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in {"/", "@"}:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
