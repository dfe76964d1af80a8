"""What a broker says that it is made of."""

import importlib.util
import json
import ssl
import subprocess
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from broker.__main__ import main
from broker.store.schema import STATE, schema_version

ROOT = Path(__file__).parents[3]


@pytest.fixture
def hook() -> ModuleType:
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_facts_are_those_of_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == version("logflux-broker")
    assert (facts["schema"], facts["state_schema"]) == (schema_version(), schema_version(STATE))
    assert facts["openssl"] == ssl.OPENSSL_VERSION
    assert facts["aiohttp"] == version("aiohttp")
    # The work tree is no build; what it was built from would be a guess.
    assert facts["commit"] == "unknown"


def test_the_readable_form_has_a_line_a_fact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][:5] == ["version", "commit", "schema", "state_schema", "python"]


def _git(place: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example"]
    done = subprocess.run(["git", *identity, *arguments], cwd=place, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_tree_and_says_when_it_is_changed(hook: ModuleType, tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("1")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "x")
    head = _git(tmp_path, "rev-parse", "HEAD")
    assert hook.commit_of(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert hook.commit_of(tmp_path) == f"{head}-dirty"


def test_a_tree_without_git_has_no_commit(hook: ModuleType, tmp_path: Path) -> None:
    # A source archive inside another repository must not take that one's commit for its own.
    _git(tmp_path, "init", "-q")
    inner = tmp_path / "archive"
    inner.mkdir()
    assert hook.commit_of(inner) is None
