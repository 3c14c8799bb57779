"""`skeldir up`: the ready file, services that come back, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import pytest

from tests.stack import Stack, eventually

PROMISED = {
    "gateway_url", "ledger_url", "redis_url", "database_url", "admin_database_url", "api_key", "operator_key",
    "tenant_id", "user_id", "pids",
}  # fmt: skip

MISSPELT = "SKELDIR_MONTLY_CAP_CENTS is no setting: is SKELDIR_MONTHLY_CAP_CENTS meant?"
PASSING = ("clock", "partition ", "gateway", "ledger")


def family(stack: Stack) -> list[psutil.Process]:
    """Every process that `up` has started."""
    children: list[psutil.Process] = psutil.Process(stack.ready["supervisor_pid"]).children(recursive=True)
    return children


def said(stack: Stack) -> str:
    """What `up` has printed, as one line: it breaks them where a terminal would end."""
    return " ".join((stack.directory / "up.log").read_text().split())


def name_of(process: psutil.Process) -> str:
    """Of one that may have ended meanwhile, as the database's own come and go: nothing."""
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def test_the_ready_file_says_what_is_promised_to_its_owner_only(stack: Stack) -> None:
    assert set(stack.ready) >= PROMISED
    assert set(stack.ready["pids"]) == {"gateway", "policy", "executor", "ledger"}
    mode = (stack.directory / "ready.json").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    commands = {name: " ".join(psutil.Process(pid).cmdline()) for name, pid in stack.ready["pids"].items()}
    assert all(f"serve {name}" in command for name, command in commands.items()), "four processes"


def test_health_and_readiness(stack: Stack) -> None:
    for base in ("gateway_url", "ledger_url"):
        assert stack.get("/healthz", base=base).status_code == 200
        eventually(lambda base=base: stack.get("/readyz", base=base).json()["status"] == "ready", "it is ready")  # type: ignore[misc]
        assert "python_info" in stack.get("/metrics", base=base).text
    assert stack.cli("wait", "--seconds", "60").stdout == ""
    late = stack.cli("wait", "--seconds", "0", stack.ready["gateway_url"], "http://127.0.0.1:1", check=False)
    assert (late.returncode, late.stdout.split()[:4]) == (1, ["http://127.0.0.1:1", "is", "not", "ready:"])
    for wrong in ("127.0.0.1:8080", "http://", "http://x:y"):
        assert "is no URL" in stack.refused("wait", wrong)
    assert stack.get("/openapi.json").json()["openapi"].startswith("3.")
    assert stack.get("/docs").status_code == 200


def test_doctor_says_what_is_wrong_and_what_to_do(stack: Stack, configured: None) -> None:
    def complaints() -> dict[str, str]:
        found = json.loads(stack.cli("doctor", "--json", check=False).stdout)
        assert found["ok"] == all(check["ok"] for check in found["checks"])
        assert all(check["ok"] or check["runbook"].startswith("docs/runbooks/") for check in found["checks"])
        # Those that pass by themselves are of a service that the machine kept waiting.
        lasting = [check for check in found["checks"] if not check["check"].startswith(PASSING)]
        return {check["check"]: check["advice"] for check in lasting if not check["ok"]}

    before = complaints()
    for name, value in (("maxmemory-policy", "allkeys-lru"), ("appendfsync", "everysec"), ("appendonly", "no")):
        stack.redis().config_set(name, value)
    advice = {"eviction": "noeviction", "append-only file": "appendonly yes", "durability": "appendfsync no"}
    wrong = complaints()
    assert wrong.keys() == before.keys() | advice.keys()
    assert all(text in wrong[name] for name, text in advice.items())
    assert stack.cli("doctor", check=False).returncode == 1
    stack.redis().config_set("appendfsync", "no")
    stricter = Stack(stack.data, {"SKELDIR_DATA_DIR": str(stack.data), "SKELDIR_DURABILITY": "fsync"})
    checks = json.loads(stricter.cli("doctor", "--json", check=False).stdout)["checks"]
    assert "set appendfsync always" in next(check["advice"] for check in checks if check["check"] == "durability")


@pytest.fixture
def configured(stack: Stack) -> Iterator[None]:
    """Afterwards the log server is configured as it was."""
    names = ("maxmemory-policy", "appendfsync", "appendonly")
    before = {name: stack.redis().config_get(name)[name] for name in names}
    yield
    for name, value in before.items():
        stack.redis().config_set(name, value)


@pytest.mark.timeout(300)
def test_servers_that_are_killed_come_back_and_nothing_is_lost(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack(SKELDIR_DURABILITY="fsync", SKELDIR_MONTLY_CAP_CENTS="1")
    assert MISSPELT in said(stack)
    assert MISSPELT in (stack.data / "logs/policy.log").read_text()
    before = stack.run(request_id="before", prompt={"simulated_cost_cents": 1})
    stack.call(before)
    for server in ("valkey-server", "postgres"):
        next(one for one in family(stack) if name_of(one).startswith(server[:8])).kill()

        def answers() -> bool:
            reply = stack.post("/v1/tasks", {"task_type": "route", "prompt": {}}, Prefer="wait=5")
            return reply.status_code == 200 and reply.json()["status"] == "success"

        eventually(answers, f"work goes on after {server}", 60)
    assert stack.run(request_id="before", prompt={"simulated_cost_cents": 1}) == before
    eventually(lambda: stack.get("/readyz", base="ledger_url").status_code == 200, "the ledger is back", 60)


@pytest.mark.parametrize(("server", "url"), [("valkey-server", "redis_url"), ("postgres", "database_url")])
def test_a_server_that_does_not_start_again_is_tried_again(
    new_stack: Callable[..., Stack], server: str, url: str
) -> None:
    """Somebody else has its port for a while. A service that dies meanwhile is started again, too."""
    stack = new_stack()
    supervisor, port = stack.ready["supervisor_pid"], urlsplit(stack.ready[url]).port

    def had() -> socket.socket | None:
        """The port, between the end of the server and its next start: where that came first, once more."""
        with suppress(psutil.NoSuchProcess):
            for one in [one for one in family(stack) if name_of(one) == server][:1]:
                one.kill()
        for _ in range(100):
            try:
                return socket.create_server(("127.0.0.1", port))
            except OSError:
                time.sleep(0.001)
        return None

    with eventually(had, "the port is had"):
        eventually(lambda: "did not start" in said(stack) and "it is tried again" in said(stack), "it is said", 60)
        policy = stack.pid("policy")
        os.kill(policy, signal.SIGKILL)
        eventually(lambda: stack.pid("policy") != policy, "policy is started again")
    eventually(lambda: stack.cli("doctor", check=False).returncode == 0, "all is well again", 60)
    assert stack.run()["status"] == "success"
    assert stack.ready["supervisor_pid"] == supervisor


def test_however_it_ends_no_process_is_left_and_state_survives(new_stack: Callable[..., Stack]) -> None:
    stack = new_stack()
    eventually(lambda: stack.cli("doctor", check=False).returncode == 0, "nothing is wrong")
    before = stack.run(request_id="once", prompt={"simulated_cost_cents": 1})
    children = family(stack)
    assert len(children) >= 8
    stack.stop()  # Ctrl-C
    assert not (stack.directory / "ready.json").exists()
    assert not psutil.wait_procs(children, timeout=20)[1]
    stack.start()
    assert stack.run(request_id="once", prompt={"simulated_cost_cents": 1}) == before
    assert float(stack.call(before)["cost_cents"]) == 1
    children = family(stack)
    os.kill(stack.ready["supervisor_pid"], signal.SIGKILL)
    stack.kill()
    assert not psutil.wait_procs(children, timeout=20)[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTITIONS", "none"),
        ("MONTHLY_CAP_CENTS", "1e12"),
        ("HOURLY_SHUTOFF_CENTS", "-1"),
        ("MODEL_ROUTES", "{gpt"),
        ("JWT_ISSUER", "https://issuer"),
    ],
)
def test_bad_settings_are_one_line(stack: Stack, name: str, value: str) -> None:
    bad = Stack(stack.directory / "bad", {f"SKELDIR_{name}": value})
    bad.directory.mkdir(exist_ok=True)
    assert f"SKELDIR_{name}" in bad.refused("serve", "policy")


def test_doctor_tells_of_a_misspelt_setting(stack: Stack) -> None:
    """It is no fault: what runs here may not have it."""
    told = stack.cli_in({**stack.environment, "SKELDIR_MONTLY_CAP_CENTS": "1"}, "doctor", "--json")
    (found,) = [one for one in json.loads(told.stdout)["checks"] if one["check"] == "settings"]
    assert (found["found"], found["ok"]) == (MISSPELT, True)


def test_a_folder_that_cannot_keep_state_is_one_line(stack: Stack) -> None:
    (stack.directory / "a-file").touch()
    assert "state cannot be kept" in stack.refused("up", "--data", str(stack.directory / "a-file"))


def test_a_ready_file_is_there_only_once_it_is_ready(stack: Stack, tmp_path: Path) -> None:
    """One that was killed left its own; it is gone before anything runs."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    ready = tmp_path / "ready.json"
    (tmp_path / "a-file").touch()
    up = ("up", "--data", str(tmp_path / "a-file"), "--ready-file", str(ready))
    ready.write_text(json.dumps(stack.ready))
    stack.refused(*up)
    assert json.loads(ready.read_text()) == stack.ready, "that one runs"
    ready.write_text(json.dumps({**stack.ready, "supervisor_pid": ended.pid}))
    stack.refused(*up)
    assert not ready.exists()


def test_where_it_cannot_begin_it_says_so_in_one_line(tmp_path: Path) -> None:
    wrong = Stack(tmp_path, {}).refused("up", "--data", str(tmp_path / "a"), "--ready-file", str(tmp_path))
    assert f"{tmp_path} is a folder" in wrong
    assert not (tmp_path / "a" / "valkey").exists(), "that is said before anything runs"
    no_log = Stack(tmp_path, {"SKELDIR_REDIS_URL": "redis://127.0.0.1:1"})
    assert "127.0.0.1:1" in no_log.refused("up", "--data", str(tmp_path / "b"))
    no_host = Stack(tmp_path, {"SKELDIR_GATEWAY_HOST": "999.1.1.1"})
    assert "gateway ended" in no_host.refused("up", "--data", str(tmp_path / "c"))


def test_a_port_that_was_asked_for_is_had_or_refused(stack: Stack, tmp_path: Path) -> None:
    port = stack.ready["gateway_url"].rpartition(":")[2]
    said = Stack(tmp_path, {"SKELDIR_GATEWAY_PORT": port}).refused("up", "--data", str(tmp_path / "a"))
    assert f"port {port} is in use" in said and "SKELDIR_GATEWAY_PORT" in said
    assert not (tmp_path / "a").exists(), "that is said before anything runs"


def test_a_tenant_beside_a_key_is_refused_and_not_passed_over(stack: Stack) -> None:
    task = ("submit", "route", "--prompt", '{"text": "x"}', "--wait", "20")
    assert "a key names its own tenant" in stack.refused(*task, "--tenant", str(uuid4()))
    assert "success" in stack.cli(*task, "--tenant", stack.ready["tenant_id"]).stdout


def test_commands_work_with_nothing_but_the_urls_of_the_ready_file(stack: Stack) -> None:
    """As they are used from another folder: the log as it is configured, the database in the reader's role."""
    elsewhere = {"SKELDIR_DATA_DIR": "/nonexistent", "SKELDIR_REDIS_URL": stack.ready["redis_url"]}
    other = Stack(stack.data, {**elsewhere, "SKELDIR_DATABASE_URL": stack.ready["database_url"]})
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    other.cli("kill-switch", "engage", "--tenant", tenant, "--user", str(uuid4()), "--reason", "drill")
    switches = json.loads(other.cli("kill-switch", "status", "--json").stdout)["switches"]
    assert tenant in {switch["scope"]["tenant_id"] for switch in switches}
    who = ("--tenant", tenant, "--user", user)
    said = other.process("submit", "route", "--prompt", "{}", *who, "--wait", "10", "--json")
    assert json.loads(said.stdout)["status"] == "success", said.stderr
    assert json.loads(other.cli("limits", "show", *who, "--json").stdout)["limits"]
