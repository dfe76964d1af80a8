"""The wheel works alone, in an environment that holds nothing but what it asks for."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from broker.cli.child import process, wait_for
from broker.cli.sandbox import sandbox

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    python = [sys.executable, "-m"]
    environ = {**os.environ, "SOURCE_COMMIT": COMMIT}
    _run(
        [*python, "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(ROOT)],
        environ,
    )
    environment = target / "environment"
    venv.create(environment, with_pip=False)
    # The locked dependencies are linked in from where they are installed, and the package comes from the wheel alone.
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    [wheel] = target.glob("*.whl")
    _run([*python, "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(purelib), str(wheel)])
    here = Path(sysconfig.get_path("purelib"))
    for entry in here.iterdir():
        if "logflux_broker" not in entry.name and entry.suffix != ".pth" and not (purelib / entry.name).exists():
            (purelib / entry.name).symlink_to(entry)
    script = environment / "bin" / "broker"
    script.write_text(f"#!{environment}/bin/python\nimport sys\nfrom broker.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return script


def _run(command: list[str], environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/", env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_tells_its_version_and_comes_from_itself(command: Path) -> None:
    assert _run([str(command), "--version"]).startswith("broker ")
    where = _run([str(command.parent / "python"), "-c", "import broker; print(broker.__file__)"])
    assert str(command.parent.parent) in where


def test_the_wheel_names_the_commit_it_was_built_from(command: Path) -> None:
    facts = json.loads(_run([str(command), "version", "--json"]))
    assert facts["commit"] == COMMIT


def test_the_wheel_serves(command: Path) -> None:
    with sandbox(fresh_for="5m") as place:
        serve = [str(command), "serve", "--config", str(place.settings_file)]
        with process(serve, log=place.directory / "broker.log", environment=dict(os.environ)) as child:
            wait_for(f"http://127.0.0.1:{place.operations_port}/readyz", child)
