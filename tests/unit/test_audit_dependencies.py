"""`make audit-dependencies` tells "nothing is known against it" from "nobody could be asked"."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit_dependencies.py"

CLEAN = {"name": "aiohttp", "version": "3.14.5", "vulns": []}
VULNERABLE = {
    "name": "jinja2",
    "version": "2.11.2",
    "vulns": [{"id": "PYSEC-2021-66", "fix_versions": ["2.11.3"], "aliases": [], "description": ""}],
}
UNKNOWN = {"name": "yarl", "skip_reason": "Dependency not found on PyPI and could not be audited: yarl (1.25.1)"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_dependencies", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("dependencies", "status", "words"),
    [
        ([CLEAN], 0, "1 dependencies looked up"),
        ([CLEAN, VULNERABLE], 1, "jinja2 2.11.2: PYSEC-2021-66, fixed in 2.11.3"),
        ([CLEAN, UNKNOWN], 75, "NOT AUDITED: 1 of 2 dependencies are unknown"),
        ([UNKNOWN, VULNERABLE], 1, "PYSEC-2021-66"),
        ([], 75, "NOT AUDITED"),
    ],
    ids=["clean", "vulnerable", "unknown", "vulnerable and unknown", "empty"],
)
def test_each_verdict_has_its_own_status(
    script: ModuleType, dependencies: list[Any], status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.verdict(dependencies) == status
    assert words in capsys.readouterr().out


def test_a_source_that_does_not_answer_is_no_verdict(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = tmp_path / "pip-audit"
    silent.write_text("#!/bin/sh\necho 'ConnectionError: no route' >&2\nexit 1\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert script.main(tmp_path / "requirements.lock") == 75
    assert "NOT AUDITED" in capsys.readouterr().out
