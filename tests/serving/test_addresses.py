"""Where the embedded server listens: ports that are chosen or checked, and who may reach it."""

import socket

import pytest
from coronanet.model.errors import UsageError
from coronanet.serving.addresses import ANY_PORT, Ports, check_host, check_ports, here, join

from .conftest import needs_ipv6


def test_only_loopback_unless_it_is_asked_for() -> None:
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UsageError, match=r"loopback only: expected --host 127\.0\.0\.1, got .*--allow-remote"):
            check_host(host)
        check_host(host, allow_remote=True)
    check_host("127.0.0.1")


@needs_ipv6
def test_ipv6_loopback_is_loopback_and_has_ports_of_its_own() -> None:
    check_host("::1")
    ports = Ports.free("::1")
    with (
        socket.create_server(("::1", ports.grpc), family=socket.AF_INET6),
        pytest.raises(UsageError, match=f"port {ports.grpc} on ::1 cannot be used"),
    ):
        check_ports("::1", ports)


def test_a_name_and_an_address_of_another_machine_are_refused() -> None:
    with pytest.raises(UsageError, match=r"takes an address of this machine such as 127\.0\.0\.1, got workstation"):
        check_host("workstation")
    # TEST-NET-1, which no machine has.
    with pytest.raises(UsageError, match=r"--host 192\.0\.2\.1 is no address of this machine"):
        check_host("192.0.2.1", allow_remote=True)


def test_open_ports_are_chosen_and_given_ones_kept() -> None:
    ports = Ports(http=ANY_PORT, grpc=18001, metrics=ANY_PORT).chosen()
    assert ports.grpc == 18001
    assert not ports.is_open
    assert len({ports.http, ports.grpc, ports.metrics}) == 3
    check_ports("127.0.0.1", Ports.free())


def test_a_port_in_use_and_one_given_twice_are_refused_by_name() -> None:
    ports = Ports.free()
    with (
        socket.create_server(("127.0.0.1", ports.metrics)),
        pytest.raises(
            UsageError, match=rf"port {ports.metrics} on 127\.0\.0\.1 cannot be used .*--metrics-port \(0: any"
        ),
    ):
        check_ports("127.0.0.1", ports)
    with pytest.raises(UsageError, match="--http-port and --grpc-port are both 18001"):
        check_ports("127.0.0.1", Ports(18001, 18001, 18002))


def test_addresses_for_people_and_for_this_machine() -> None:
    assert join("::1", 8001) == "[::1]:8001"
    assert join("127.0.0.1", 8001) == "127.0.0.1:8001"
    assert [here(host) for host in ("0.0.0.0", "::", "127.0.0.1")] == ["127.0.0.1", "::1", "127.0.0.1"]
