"""Ports that servers get: taken, when they listen at last, by nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys

from skeldir.embedded.process import PORTS, free_port

ASK = "from skeldir.embedded.process import free_port; print([free_port() for _ in range(5)])"


def test_a_port_that_is_in_use_is_passed_over() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        found = [free_port() for _ in PORTS]
    assert port not in found and set(found) <= set(PORTS), "also once around"


def test_who_asks_again_or_beside_another_hears_of_other_ports() -> None:
    """Neither listens yet: by what is in use nobody could tell."""
    asking = [subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [port for one in asking for port in eval(one.communicate(timeout=60)[0])]
    assert len(said) == len(set(said)) == 15
