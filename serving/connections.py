"""Ends the idle HTTP connections of a Triton that is stopping, so that they do not use up its time to stop.

Triton first waits until every HTTP connection is closed, and a client that keeps one open for its next request, as
most do, lets that wait run into the exit timeout; whatever is answered over gRPC is cut off then. This process gets
hold of the server's own end of each connection and closes the half that reads: an idle connection ends at once, and one
whose request is being answered ends behind the answer.
"""

import ctypes
import os
import socket
from contextlib import suppress
from pathlib import Path

#: The same number on x86-64 and on ARM.
PIDFD_GETFD = 438


def end_reading(pid: int, port: int) -> int:
    """Close the reading half of every connection that the process ``pid`` accepted on ``port``; how many there were.

    Where the kernel or the container's seccomp profile forbids it, nothing happens.
    """
    ended = 0
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            for descriptor in _sockets(pid):
                # A connection that ends in this moment is gone, or is not connected any more.
                with suppress(OSError), _duplicate(process, descriptor) as connection:
                    if _is_accepted(connection, port):
                        connection.shutdown(socket.SHUT_RD)
                        ended += 1
        finally:
            os.close(process)
    return ended


def _sockets(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(entry).startswith("socket:"):
                found.append(int(entry.name))
    return found


def _duplicate(process: int, descriptor: int) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    copy: int = libc.syscall(PIDFD_GETFD, process, descriptor, 0)
    if copy < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return socket.socket(fileno=copy)


def _is_accepted(connection: socket.socket, port: int) -> bool:
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return False
    listens = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return not listens and connection.getsockname()[1] == port
