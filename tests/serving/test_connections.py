"""Idle HTTP connections of a server that stops: the half that reads is closed, and answers still get out."""

import os
import socket
import subprocess
import sys

from coronanet.serving.connections import end_reading


def test_it_ends_the_reading_of_what_was_accepted_on_the_port_and_nothing_else() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listens,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection(listens.getsockname(), timeout=5) as client,
        socket.create_connection(other.getsockname(), timeout=5) as bystander,
    ):
        server, stays = listens.accept()[0], other.accept()[0]
        with server, stays:
            assert end_reading(os.getpid(), listens.getsockname()[1]) == 1
            assert server.recv(1) == b"", "for the server the client has said all"
            server.sendall(b"the answer")
            assert client.recv(100) == b"the answer"
            bystander.sendall(b"a request")
            assert stays.recv(100) == b"a request"
        with socket.create_connection(listens.getsockname(), timeout=5):
            listens.accept()[0].close()


def test_a_process_that_is_gone_has_none() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert end_reading(process.pid, 8000) == 0
