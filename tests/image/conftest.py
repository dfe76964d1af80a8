"""What the checks of the image share: two builds of it, one container that runs it, and the figures at the end."""

import os
import shutil
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from broker.cli.sandbox import Sandbox, sandbox
from tests.image.base import RELEASE, base_name, make_stand_in
from tests.image.commands import run
from tests.image.container import APPLIED, NOT_APPLIED, Container, Mount, running, wait_until
from tests.image.images import Image, Storage
from tests.image.package_index import PackageIndex

ROOT = Path(__file__).parents[2]
STATE = "/var/lib/logflux-broker"
CONFIGURATION = "/etc/logflux-broker"
_TOOLS = ("buildah", "crun", "debootstrap")
_LINES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pull", action="store_true", help="fetch the base that the Dockerfile names instead of making a stand-in"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LINES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[_LINES]:
        terminalreporter.section("the image, as built and run here")
        for line in config.stash[_LINES]:
            terminalreporter.write_line(line)


class Report:
    """What is told: at once for progress, and at the end for figures."""

    def __init__(self, config: pytest.Config) -> None:
        self._lines = config.stash[_LINES]
        self._capture = config.pluginmanager.get_plugin("capturemanager")

    def progress(self, text: str) -> None:
        assert self._capture is not None
        with self._capture.global_and_fixture_disabled():
            sys.stdout.write(f"\n  {text} ...")
            sys.stdout.flush()

    def figure(self, name: str, value: str) -> None:
        self._lines.append(f"{name + ':':<26} {value}")


@dataclass(frozen=True)
class Builds:
    """The image, the same built again, and what both stand on."""

    base: Image
    first: Image
    second: Image
    revision: str

    @cached_property
    def added(self) -> dict[str, Path]:
        """Return the files that the image adds to its base, or changes in it."""
        return self.first.added_to(self.base)


@dataclass(frozen=True)
class Running:
    """A container that serves, and everything outside it."""

    container: Container
    place: Sandbox
    state: Path
    seconds_to_ready: float


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return Report(pytestconfig)


@pytest.fixture(scope="session")
def package_index() -> PackageIndex:
    return PackageIndex.of_this_machine()


@pytest.fixture(scope="session")
def storage() -> Iterator[Storage]:
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    assert not missing, f"not installed: {', '.join(missing)}; run: sudo apt-get install {' '.join(missing)}"
    assert os.geteuid() == 0, "debootstrap and the container runtime need root; run: sudo make image-check"
    place = Storage(Path(tempfile.mkdtemp(prefix="logflux-image-")))
    yield place
    place.remove()


@pytest.fixture(scope="session")
def base(storage: Storage, report: Report, pytestconfig: pytest.Config) -> Image:
    name = base_name(ROOT / "Dockerfile")
    if pytestconfig.getoption("--pull"):
        report.progress(f"fetching {name}")
        report.figure("base", name)
        return storage.pull(name)
    archive = ROOT / "build" / f"stand-in-{RELEASE}.tar"
    kept = "kept from an earlier run" if archive.exists() else "about a minute"
    report.progress(f"making a stand-in for {name} with debootstrap ({kept})")
    make_stand_in(archive)
    report.figure("base", f"a STAND-IN made with debootstrap ({RELEASE}, its own Python), tagged as {name}")
    return storage.load_root(archive, name)


@pytest.fixture(scope="session")
def builds(base: Image, storage: Storage, package_index: PackageIndex, report: Report) -> Builds:
    revision, timestamp = _git("log", "-1", "--format=%H %ct").split()
    if _git("status", "--porcelain"):
        revision += "-dirty"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    volumes = package_index.volumes(storage.directory)

    def build(context: Path, name: str, *, umask: int) -> Image:
        report.progress(f"building {name} with buildah (chroot isolation, vfs storage)")
        labels = {"VERSION": version, "REVISION": revision}
        return storage.build(context, name, timestamp=int(timestamp), labels=labels, volumes=volumes, umask=umask)

    first = build(ROOT, "logflux-broker:first", umask=0o022)
    # Another directory, other times of the files, another umask, another second: none of it may show.
    elsewhere = _copy_of_context(storage.directory / "elsewhere")
    return Builds(base, first, build(elsewhere, "logflux-broker:second", umask=0o077), revision)


@pytest.fixture(scope="session")
def served(builds: Builds, storage: Storage, report: Report) -> Iterator[Running]:
    report.progress("starting OpenBao outside, and the image under crun")
    with ExitStack() as stack:
        place = stack.enter_context(sandbox(fresh_for="5m"))
        configuration, state = storage.directory / "configuration", storage.directory / "state"
        _mount_configuration(place, configuration)
        state.mkdir(mode=0o700)
        os.chown(state, 1000, 1000)
        mounts = [Mount(configuration, CONFIGURATION), Mount(state, STATE, writable=True)]
        environment = {"LOGFLUX_OPERATIONS__PORT": str(place.operations_port)}
        # The root is mounted before the clock starts: an engine has done that when it pulled the image.
        assert builds.first.root.is_dir()
        began = time.monotonic()
        container = stack.enter_context(
            running(builds.first, directory=storage.directory / "bundle", mounts=mounts, environment=environment)
        )
        wait_until(lambda: _answers(place), container)
        yield Running(container, place, state, time.monotonic() - began)
    report.figure("isolation applied", "; ".join(APPLIED))
    report.figure("isolation NOT applied", "; ".join(NOT_APPLIED))


def _answers(place: Sandbox) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{place.operations_port}/readyz", timeout=2):
            return True
    except OSError:
        return False


def _git(*arguments: str) -> str:
    return run(["git", "-C", ROOT, *arguments])


def _copy_of_context(target: Path) -> Path:
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target / name, follow_symlinks=False)
    return target


def _mount_configuration(place: Sandbox, target: Path) -> None:
    """Write what an operator mounts: settings, policy and keys, and not the key of the authority."""
    target.mkdir()
    for name in ("broker.yaml", "policy.yaml"):
        text = (place.directory / name).read_text()
        moved = text.replace(f"{place.directory}/state", STATE).replace(str(place.directory), CONFIGURATION)
        (target / name).write_text(moved)
    for name in ("pki/broker.crt", "pki/broker.key", "pki/ca.crt", "role_id", "secret_id", "agents.env"):
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copy(place.directory / name, target / name)
    shutil.copytree(place.files, target / "var" / "secrets" / "logflux")
    for path in (target, *target.rglob("*")):
        os.chown(path, 1000, 1000)
