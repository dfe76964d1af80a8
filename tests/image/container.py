"""Run an image as a container, under a real OCI runtime and as strictly as a hardened platform would.

The bundle is written here and not by an engine, so that what is applied is what stands in this file; crun, which
podman and CRI-O use, applies it. An engine's default seccomp profile, its cgroup limits and its network are not here.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.image.commands import CommandError, run
from tests.image.images import Image

APPLIED: Final = (
    "uid and gid 1000",
    "read-only root",
    "no capability in any set",
    "no_new_privs",
    "own mount, pid, ipc and uts namespaces",
    "/proc/sys read-only, /proc/kcore masked",
    "writable: a tmpfs on /tmp (noexec, 16 MiB) and the state volume (noexec); no /dev/shm",
)
NOT_APPLIED: Final = (
    "user namespace",
    "network namespace (store and agent are outside, on the same loopback)",
    "seccomp profile",
    "cgroup limits",
)
_CAPABILITY_SETS: Final = ("bounding", "effective", "inheritable", "permitted", "ambient")
_KERNEL_MOUNTS: Final = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
    {
        "destination": "/tmp",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", "mode=1777", "size=16m"],
    },
)
# crun refuses a hybrid of both cgroup versions even when it is told to leave cgroups alone, so it does not see them.
_HIDE_CGROUPS: Final = 'umount --recursive /sys/fs/cgroup && mount -t tmpfs none /sys/fs/cgroup && exec "$@"'


@dataclass(frozen=True)
class Mount:
    """A directory of the host in the container."""

    source: Path
    target: str
    writable: bool = False


class Container:
    """One running container."""

    def __init__(self, *, identifier: str, state: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
        """Describe what `running` started."""
        self._identifier = identifier
        self._state = state
        self._process = process
        self._log = log

    @property
    def log(self) -> str:
        """Return what the container wrote."""
        return self._log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        """Tell whether the first process has ended."""
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Return the first process of the container, as the host counts."""
        return int(json.loads(run(self._crun("state", self._identifier)))["pid"])

    @property
    def status(self) -> dict[str, str]:
        """Return what the kernel tells about the first process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def execute(self, *command: str) -> str:
        """Return what a command inside the container prints, with the user and the limits of the first process."""
        status = self.status
        user = f"--user={status['Uid'].split()[0]}:{status['Gid'].split()[0]}"
        return run(self._crun("exec", user, "--no-new-privs", self._identifier, *command), seconds=60)

    def stop(self, number: signal.Signals, *, seconds: float) -> int:
        """Send a signal to the first process, and return its exit status."""
        run(self._crun("kill", self._identifier, number.name))
        return self._process.wait(timeout=seconds)

    def remove(self) -> None:
        """End what is left of it."""
        try:
            run(self._crun("delete", "--force", self._identifier))
        except CommandError:
            # It is gone already, together with the runtime's record of it.
            self._process.kill()
        self._process.wait(timeout=10)

    def _crun(self, *arguments: str) -> list[str]:
        return _crun(self._state, *arguments)


@contextmanager
def running(
    image: Image, *, directory: Path, mounts: Sequence[Mount], environment: Mapping[str, str]
) -> Iterator[Container]:
    """Start the image's own command, and remove the container with the block."""
    directory.mkdir()
    identifier = f"image-check-{os.getpid()}"
    (directory / "config.json").write_text(json.dumps(_bundle(image, mounts=mounts, environment=environment)))
    log = directory / "output.log"
    state = directory / "runtime"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _crun(state, "run", f"--bundle={directory}", identifier),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    container = Container(identifier=identifier, state=state, process=process, log=log)
    try:
        yield container
    finally:
        container.remove()


def wait_until(condition: Callable[[], bool], container: Container, *, seconds: float = 60) -> None:
    """Return when `condition` holds; fail with the container's words when it ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert not container.ended, f"the container ended; its words:\n{container.log}"
        assert time.monotonic() < deadline, f"not ready in {seconds} s; its words:\n{container.log}"
        time.sleep(0.01)


def _crun(state: Path, *arguments: str) -> list[str]:
    command = ["crun", "--cgroup-manager=disabled", f"--root={state}", *arguments]
    return ["unshare", "--mount", "sh", "-euc", _HIDE_CGROUPS, "sh", *command]


def _bundle(image: Image, *, mounts: Sequence[Mount], environment: Mapping[str, str]) -> dict[str, Any]:
    wanted = image.configuration
    uid, gid = (int(number) for number in wanted["User"].split(":"))
    extra = [f"{name}={value}" for name, value in environment.items()]
    return {
        "ociVersion": "1.0.0",
        "root": {"path": str(image.root), "readonly": True},
        "hostname": "broker",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": gid},
            "args": [*wanted["Entrypoint"], *wanted["Cmd"]],
            "env": [*wanted["Env"], *extra],
            "cwd": wanted["WorkingDir"] or "/",
            "capabilities": {name: [] for name in _CAPABILITY_SETS},
            "noNewPrivileges": True,
        },
        "mounts": [*_KERNEL_MOUNTS, *(_bind(mount) for mount in mounts)],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
        },
    }


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind", "nosuid", "nodev", "noexec", "rw" if mount.writable else "ro"]
    return {"destination": mount.target, "type": "bind", "source": str(mount.source), "options": options}
