"""A process that holds secrets leaves no core and shows its memory to nobody."""

import resource
import subprocess
import sys

import pytest

from broker.cli import undumpable
from broker.cli.undumpable import forbid_dumps
from broker.errors import SettingsInvalidError

LOOK = """
import ctypes, resource
from broker.cli.undumpable import forbid_dumps
forbid_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_neither_limit_nor_kernel_leaves_a_core() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert done.stdout == "(0, 0) 0\n"


@pytest.mark.parametrize("fault", [ValueError("not allowed to raise maximum limit"), OSError(1, "no")])
def test_a_limit_that_can_not_be_set_is_an_error(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> None:
    def refuse(_which: int, _limits: tuple[int, int]) -> None:
        raise fault

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(SettingsInvalidError, match="RLIMIT_CORE"):
        forbid_dumps()


def test_a_kernel_that_refuses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def prctl(self, *_arguments: object) -> int:
            return -1

    monkeypatch.setattr(resource, "setrlimit", lambda _which, _limits: None)
    monkeypatch.setattr(undumpable.ctypes, "CDLL", lambda _name, use_errno: Refusing())
    with pytest.raises(SettingsInvalidError, match="PR_SET_DUMPABLE"):
        forbid_dumps()
