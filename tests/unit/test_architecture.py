"""The import contracts hold, and the agent's verbs start without third-party packages."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_import_contracts_are_kept() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "module", ["broker.__main__", "broker.agent.get", "broker.agent.exec", "broker.agent.render", "broker.agent.lint"]
)
def test_the_agents_side_imports_the_standard_library_alone(module: str) -> None:
    script = f"import sys, {module}; print('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"broker", "__mp_main__"}
    # What site-packages' .pth files load at every start is no import of ours.
    foreign = {name for name in foreign if not name.startswith(("_", "sitecustomize", "usercustomize"))}
    assert foreign == set()


def test_no_assert_decides_anything_in_the_product() -> None:
    for file in (ROOT / "broker").rglob("*.py"):
        assert not any(line.lstrip().startswith("assert ") for line in file.read_text().splitlines()), file


# What is about no single module: contracts, pages, and the entrance.
_ABOUT_MORE = {"architecture", "audit_dependencies", "docs", "main", "openapi", "reliability_page"}


def test_unit_tests_stand_in_the_tree_of_what_they_test() -> None:
    unit, broker = ROOT / "tests" / "unit", ROOT / "broker"
    for file in unit.rglob("test_*.py"):
        folder, name = file.parent.relative_to(unit), file.stem.removeprefix("test_")
        assert (broker / folder).is_dir(), f"{file}: no such folder in broker/"
        if file.parent == unit:
            module = broker / f"{name}.py"
            assert module.is_file() or name in _ABOUT_MORE, f"{file}: put it into the folder of what it tests"
