"""Measure the broker beside its peers in one run, and print ratios.

Every figure of the broker is taken with its durable audit record on, over mTLS with kept connections. Timings are
printed and never fail anything. The load is made by processes on the same machine, so the fast side is held back by it.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.cli.child import Process, free_port, process, wait_for
from broker.cli.sandbox import Sandbox, sandbox

REFERENCES = 20
# Few, so that each waits for the one before it; and as many as a small fleet keeps open.
FEW, MANY = 16, 64
SECRET = "/v1/secret/data/logflux"
BAO = str(Path(sys.executable).parent / "bao")


@dataclass(frozen=True)
class Load:
    """What `load.py` saw: requests a second, and times in seconds."""

    rate: float
    median: float
    p99: float
    failed: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=8_000, help="requests of each load (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is taken (%(default)s)")
    parser.add_argument(
        "--memory-requests",
        type=int,
        default=100_000,
        metavar="N",
        help="requests that broker and proxy have answered when their memory is compared (%(default)s)",
    )
    parser.add_argument("--uvloop", action="store_true", help="run broker and empty handler on uvloop")
    arguments = parser.parse_args()
    # What a build was optimized for is a quarter of the speed of its Python code, and not every build tells.
    print(f"Python {platform.python_version()}, {Path(sys.executable).resolve()}; {os.cpu_count()} cores")
    with ExitStack() as stack:
        place = stack.enter_context(sandbox(fresh_for="5m"))
        extra = ["--uvloop"] if arguments.uvloop else []
        _twenty_fields(place)
        broker = stack.enter_context(_broker(place, extra))
        proxy_port, proxy = stack.enter_context(_proxy(place))
        empty_port = stack.enter_context(_empty(place, extra))
        _rates(place, proxy_port, empty_port, arguments)
        _memory(place, broker, proxy_port, proxy, arguments)
        _agent_start(place, arguments.rounds)
    sys.stdout.flush()
    # A store and a broker of their own, whose policy and budget pass every read.
    uncached = [sys.executable, str(Path(__file__).with_name("uncached.py")), *extra]
    return subprocess.run(uncached, check=False).returncode


def _rates(place: Sandbox, proxy_port: int, empty_port: int, arguments: argparse.Namespace) -> None:
    for connections in (FEW, MANY):
        _rates_at(connections, place, proxy_port, empty_port, arguments)


def _rates_at(
    connections: int, place: Sandbox, proxy_port: int, empty_port: int, arguments: argparse.Namespace
) -> None:
    one = _asking_for(1)
    sides = {
        "proxy": (proxy_port, SECRET, b""),
        "one": (place.agent_port, "/v1/resolve", one),
        "twenty": (place.agent_port, "/v1/resolve", _asking_for(REFERENCES)),
        "empty": (empty_port, "/", one),
    }
    loads: dict[str, list[Load]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name, (port, target, body) in sides.items():
            loads[name].append(_load(place, port, target, arguments.requests, body, connections))
    middle = {name: sorted(found, key=lambda load: load.rate)[len(found) // 2] for name, found in loads.items()}
    failed = {name: sum(load.failed for load in found) for name, found in loads.items()}
    print(f"{connections} connections, mTLS, kept; median of {arguments.rounds} rounds; failed requests: {failed}")
    _ratio("requests a second, 1 reference, against bao proxy", middle["one"].rate / middle["proxy"].rate, "3")
    secrets = REFERENCES * middle["twenty"].rate / middle["proxy"].rate
    _ratio(f"secrets a second, {REFERENCES} references, against bao proxy", secrets, "30")
    _ratio("requests a second, 1 reference, against an empty handler", middle["one"].rate / middle["empty"].rate, None)
    _ratio("p99 over median, 1 reference", middle["one"].p99 / middle["one"].median, "at most 10")


def _memory(place: Sandbox, broker: Process, proxy_port: int, proxy: Process, arguments: argparse.Namespace) -> None:
    """Bring both sides to the same number of requests, and compare what they hold then."""
    asked = arguments.requests * arguments.rounds * 2
    ours, theirs = (max(arguments.memory_requests - done, FEW) for done in (2 * asked, asked))
    _load(place, place.agent_port, "/v1/resolve", ours, _asking_for(1), FEW)
    _load(place, proxy_port, SECRET, theirs, b"", FEW)
    ratio = _resident(broker) / _resident(proxy)
    _ratio(f"resident memory against bao proxy, after {arguments.memory_requests} requests", ratio, "at most 1")


def _asking_for(count: int) -> bytes:
    return json.dumps({"references": [f"vault:secret/logflux#f{number}" for number in range(count)]}).encode()


def _agent_start(place: Sandbox, rounds: int) -> None:
    certificate, key = place.certificate("shipper")
    environment = {
        **os.environ,
        "LOGFLUX_BROKER_URL": place.url,
        "LOGFLUX_BROKER_CA": str(place.authority),
        "LOGFLUX_AGENT_CERT": str(certificate),
        "LOGFLUX_AGENT_KEY": str(key),
    }
    get = [sys.executable, "-m", "broker", "get", *(f"vault:secret/logflux#f{n}" for n in range(REFERENCES))]
    agent = [BAO, "agent", f"-config={_agent_configuration(place)}", "-log-level=error"]
    ours = sorted(_run_once(get, environment) for _ in range(rounds))[rounds // 2]
    theirs = sorted(_run_once(agent, dict(os.environ)) for _ in range(rounds))[rounds // 2]
    _ratio(
        f"start of an agent with {REFERENCES} references, time, against bao agent", ours[0] / theirs[0], "at most 0.2"
    )
    _ratio(
        f"start of an agent with {REFERENCES} references, memory, against bao agent", ours[1] / theirs[1], "at most 0.5"
    )


def _run_once(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Return wall seconds and peak kilobytes of one run."""
    before = time.monotonic()
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} ended with {child.returncode}")
    return time.monotonic() - before, usage.ru_maxrss


def _load(place: Sandbox, port: int, target: str, requests: int, body: bytes, connections: int) -> Load:
    command = [sys.executable, str(Path(__file__).with_name("load.py"))]
    command += [str(place.directory / "pki"), str(port), target, str(requests), str(connections)]
    done = subprocess.run(command, input=body, capture_output=True, check=True, timeout=300)
    return Load(**json.loads(done.stdout))


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"ab printed no {pattern}:\n{text}")
    return float(found.group(1))


def _ratio(what: str, ratio: float, aim: str | None) -> None:
    print(f"  {what:75} {ratio:8.2f}" + (f"   (aim: {aim})" if aim else ""), flush=True)


def _resident(child: Process) -> int:
    status = Path(f"/proc/{child.handle.pid}/status").read_text()
    return int(_number(r"VmRSS:\s+(\d+)", status))


def _twenty_fields(place: Sandbox) -> None:
    fields = {f"f{number}": f"value-{number:024d}" for number in range(REFERENCES)}
    place.ask_store("POST", "secret/data/logflux", {"data": fields})


@contextmanager
def _broker(place: Sandbox, extra: list[str]) -> Iterator[Process]:
    command = [sys.executable, "-m", "broker", "serve", "--config", str(place.settings_file), *extra]
    # One identity makes all the load.
    environment = {
        **os.environ,
        "LOGFLUX_LOG_LEVEL": "warning",
        "LOGFLUX_LIMITS__IDENTITY_REQUESTS_PER_SECOND": "0",
    }
    with process(command, log=place.directory / "broker.log", environment=environment) as child:
        wait_for(f"http://127.0.0.1:{place.operations_port}/readyz", child)
        yield child


@contextmanager
def _empty(place: Sandbox, extra: list[str]) -> Iterator[int]:
    port = free_port()
    command = [
        sys.executable,
        str(Path(__file__).with_name("empty_handler.py")),
        str(place.directory),
        str(port),
        *extra,
    ]
    with process(command, log=place.directory / "empty.log") as child:
        deadline = time.monotonic() + 10
        while "ready" not in child.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        yield port


@contextmanager
def _proxy(place: Sandbox) -> Iterator[tuple[int, Process]]:
    port = free_port()
    file = place.directory / "proxy.hcl"
    pki = place.directory / "pki"
    file.write_text(f"""
vault {{ address = "{place.store_address}" }}
{_auto_auth(place)}
api_proxy {{ use_auto_auth_token = true }}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  tls_cert_file = "{pki}/broker.crt"
  tls_key_file = "{pki}/broker.key"
  tls_client_ca_file = "{pki}/ca.crt"
  tls_require_and_verify_client_cert = true
}}
""")
    with process([BAO, "proxy", f"-config={file}", "-log-level=error"], log=place.directory / "proxy.log") as child:
        time.sleep(2)
        yield port, child


def _agent_configuration(place: Sandbox) -> Path:
    read = '{{ with secret \\"secret/data/logflux\\" }}{{ .Data.data.f%d }}{{ end }}'
    templates = "\n".join(f'env_template "F{n}" {{ contents = "{read % n}" }}' for n in range(REFERENCES))
    file = place.directory / "agent.hcl"
    file.write_text(f"""
vault {{ address = "{place.store_address}" }}
{_auto_auth(place)}
{templates}
exec {{ command = ["/bin/true"] }}
""")
    return file


def _auto_auth(place: Sandbox) -> str:
    return f"""
auto_auth {{
  method "approle" {{
    config = {{
      role_id_file_path = "{place.directory}/role_id"
      secret_id_file_path = "{place.directory}/secret_id"
      remove_secret_id_file_after_reading = false
    }}
  }}
}}"""


if __name__ == "__main__":
    sys.exit(main())
