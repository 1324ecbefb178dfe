"""The proxy that breaks connections: what it is told, and nothing else."""

import socket
import threading
import time

import pytest

from depai_robot.sim.fault_proxy import HOST, FaultProxy


@pytest.fixture
def echo():
    """A server that says everything back; its port."""
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data)
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(2)


@pytest.fixture
def proxy(echo):
    proxy = FaultProxy(echo)
    yield proxy
    proxy.stop()


@pytest.fixture
def client(proxy):
    with socket.create_connection((HOST, proxy.port), 2) as connection:
        connection.settimeout(2)
        yield connection


def say(connection, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(4096)


def connect_and_read(proxy) -> bytes:
    """A reset may come while the connection is still being made."""
    with socket.create_connection((HOST, proxy.port), 2) as connection:
        connection.settimeout(2)
        return connection.recv(1)


def test_it_forwards(client) -> None:
    assert say(client, b"hello") == b"hello"
    assert say(client, b"again") == b"again"


def test_a_cut_is_a_reset_until_it_is_healed(proxy, client) -> None:
    assert say(client, b"hello") == b"hello"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        connect_and_read(proxy)
    proxy.heal()
    with socket.create_connection((HOST, proxy.port), 2) as third:
        third.settimeout(2)
        assert say(third, b"back") == b"back"


def test_a_black_hole_swallows_and_gives_back(proxy, client) -> None:
    assert say(client, b"hello") == b"hello"
    proxy.black_hole()
    client.sendall(b"lost?")
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.heal()
    client.settimeout(2)
    assert client.recv(4096) == b"lost?"


def test_a_delay_counts_both_ways(proxy, client) -> None:
    proxy.delay(0.1)
    begin = time.monotonic()
    assert say(client, b"hello") == b"hello"
    assert time.monotonic() - begin >= 0.2
