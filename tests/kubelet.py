"""A kubelet for tests: run a rendered pod's containers as processes of this machine.

It mounts ConfigMaps and Secrets with the kubelet's own links, owners and modes, runs init containers in their
order and sidecars beside them, and waits for start-up probes. What a process can't have here (its own root, its
own network) is translated: each mount path and each address in commands, variables and settings is replaced by
the place that it has on this machine.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from broker.cli.child import Process, process
from tests.manifests import Manifest

USER = 1000
# An interpreter below a home that user 1000 can't pass must have read its modules before it becomes that user.
_AS_USER = f"""
import encodings.idna, importlib, os, pkgutil, sys
import broker
for module in pkgutil.walk_packages(broker.__path__, "broker."):
    importlib.import_module(module.name)
os.setgroups([{USER}])
os.setresgid({USER}, {USER}, {USER})
os.setresuid({USER}, {USER}, {USER})
os.environ["PATH"] = "/usr/bin:/bin"
from broker.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
_START_SECONDS = 60.0


@contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory that user 1000 can pass; pytest's own are for their owner alone."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def write_volume(directory: Path, files: Mapping[str, bytes], *, mode: int, group: int | None) -> None:
    """Put `files` into a ConfigMap's or a Secret's volume in one step, as the kubelet does at each change too.

    With `group` (fsGroup; needs root) the files are root's, and the group may read them.
    """
    first = not (directory / "..data").is_symlink()
    fresh = directory / f"..2026_11_25_{time.monotonic_ns()}"
    fresh.mkdir()
    for name, data in files.items():
        (fresh / name).write_bytes(data)
        (fresh / name).chmod(mode | 0o440 if group is not None else mode)
    fresh.chmod(0o755)
    if group is not None:
        for path in (directory, fresh, *fresh.iterdir()):
            os.chown(path, 0, group)
        # As the kubelet's: open to all, so that only the sticky bit protects what is in it.
        directory.chmod(0o3777)
    old = None if first else directory / (directory / "..data").readlink()
    (directory / "..data_tmp").symlink_to(fresh.name)
    (directory / "..data_tmp").rename(directory / "..data")
    for name in files:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    if old is not None:
        for path in old.iterdir():
            path.unlink()
        old.rmdir()


@dataclass(kw_only=True)
class Pod:
    """A pod whose volumes lie below `directory`.

    `places` tells where on this machine each mount path lies; `mount` adds those of the volumes.
    With `identity`, which needs root, the volumes are fsGroup's and the broker runs as user 1000.
    """

    spec: Manifest
    directory: Path
    config_maps: Mapping[str, Mapping[str, str]]
    secrets: Mapping[str, Mapping[str, bytes]]
    replace: Mapping[str, str]
    identity: bool = False
    places: dict[str, str] = field(default_factory=dict)
    running: dict[str, Process] = field(default_factory=dict)

    def mount(self) -> None:
        """Make and fill every volume."""
        for container in self._containers():
            for mount in container["volumeMounts"]:
                self.places[mount["mountPath"]] = str(self.volume(mount["name"]))
        for volume in self.spec["volumes"]:
            self._fill(volume)

    def volume(self, name: str) -> Path:
        return self.directory / "volumes" / name

    def translated(self, text: str) -> str:
        """Return `text` with the paths and addresses of this machine, each replaced once."""
        known = {**self.places, **self.replace}
        paths = "|".join(
            rf"{re.escape(path)}(?=[/\"'\s,\]}}]|$)" for path in sorted(self.places, key=len, reverse=True)
        )
        others = "|".join(re.escape(text) for text in sorted(self.replace, key=len, reverse=True))
        return re.sub(f"{paths}|{others}" if others else paths, lambda found: known[found[0]], text)

    def rewrite(self, volume: str, files: Mapping[str, bytes]) -> None:
        """Change a mounted ConfigMap or Secret, as the kubelet does some time after the object changed."""
        write_volume(self.volume(volume), files, mode=0o400, group=USER if self.identity else None)

    @contextmanager
    def run(self, *, remount: bool = True) -> Iterator["Pod"]:
        """Run the init containers to their end, and sidecars and containers until the block ends."""
        if remount:
            self.mount()
        with ExitStack() as stack:
            for container in self.spec.get("initContainers", []):
                if container.get("restartPolicy") == "Always":
                    self._start(stack, container)
                else:
                    done = self.exec(container)
                    assert done.returncode == 0, f"{container['name']}: {done.stdout}{done.stderr}"
            for container in self.spec["containers"]:
                self._start(stack, container)
            yield self

    def exec(self, container: Manifest | str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command, by default the container's own, with the container's variables."""
        if isinstance(container, str):
            (container,) = (each for each in self._containers() if each["name"] == container)
        # As in a container: nothing of the caller's environment, and the root as the working directory.
        return subprocess.run(
            list(command) or self._own_command(container),
            env=self._environment(container),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _start(self, stack: ExitStack, container: Manifest) -> None:
        name = container["name"]
        child = stack.enter_context(
            process(
                self._own_command(container),
                log=self.directory / f"{name}.log",
                environment=self._environment(container),
            )
        )
        self.running[name] = child
        if probe := container.get("startupProbe"):
            self._until(lambda: self.probe(container, probe), child)

    def probe(self, container: Manifest, probe: Manifest) -> bool:
        """Return what the kubelet would see."""
        if "exec" in probe:
            command = [self.translated(word) for word in probe["exec"]["command"]]
            return self.exec(container, *command).returncode == 0
        port = {each["name"]: str(each["containerPort"]) for each in container["ports"]}[probe["httpGet"]["port"]]
        url = f"http://127.0.0.1:{self.translated(port)}{probe['httpGet']['path']}"
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                return bool(200 <= answer.status < 400)
        except OSError:
            return False

    def _until(self, condition: Callable[[], bool], child: Process) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not condition():
            log = child.log.read_text(errors="replace")[-3000:]
            assert child.handle.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)

    def _containers(self) -> list[Manifest]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def _own_command(self, container: Manifest) -> list[str]:
        # The image's own entry point is `broker`.
        words = [*container.get("command", ["broker"]), *container.get("args", [])]
        command = [self.translated(word) for word in words]
        if not self.identity:
            return command
        assert command[0] == "broker", "only the broker's own commands can be run as user 1000"
        return [sys.executable, "-c", _AS_USER, *command[1:]]

    def _environment(self, container: Manifest) -> dict[str, str]:
        named = {variable["name"]: self.translated(variable["value"]) for variable in container.get("env", [])}
        return {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **named}

    def _fill(self, volume: Manifest) -> None:
        directory = self.volume(volume["name"])
        directory.mkdir(parents=True)
        group = USER if self.identity else None
        match volume:
            case {"configMap": {"name": name}}:
                files = {file: self.translated(text).encode() for file, text in self.config_maps[name].items()}
                write_volume(directory, files, mode=0o644, group=group)
            case {"secret": {"secretName": name, "defaultMode": mode}}:
                write_volume(directory, self.secrets[name], mode=mode, group=group)
            case {"projected": {"defaultMode": mode, "sources": sources}}:
                files = {
                    item["path"]: self.secrets[source["secret"]["name"]][item["key"]]
                    for source in sources
                    for item in source["secret"]["items"]
                }
                write_volume(directory, files, mode=mode, group=group)
            case {"emptyDir": _} | {"persistentVolumeClaim": _}:
                if group is not None:
                    os.chown(directory, 0, group)
                    # Memory is a tmpfs with a sticky bit; a disk is not.
                    directory.chmod(0o3777 if "emptyDir" in volume else 0o2775)
            case _:
                message = f"a volume of no known kind: {volume}"
                raise AssertionError(message)
