"""Run a command as the unit confines it: its system calls and its memory, applied to this process and kept by exec.

Usage: confined.py UNIT COMMAND...   It does with libseccomp and prctl(2) what systemd does for
SystemCallFilter=, SystemCallErrorNumber=, MemoryDenyWriteExecute= and NoNewPrivileges=.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


def values(unit: Path, key: str) -> list[str]:
    """Return what `key` is set to, line by line."""
    lines = [line.partition("=") for line in unit.read_text().splitlines()]
    return [value for name, _, value in lines if name == key]


def members(name: str) -> set[str]:
    """Return the system calls of a name, which may be a set of sets."""
    if not name.startswith("@"):
        return {name}
    shown = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
    words = [line.strip() for line in shown.stdout.splitlines()[1:]]
    return set().union(*(members(word) for word in words if word and not word.startswith("#")))


def allowed_calls(unit: Path) -> set[str]:
    """Return the system calls that the unit leaves."""
    # What systemd always allows beside the list.
    calls = members("@default")
    for value in values(unit, "SystemCallFilter"):
        named = set().union(*(members(name) for name in value.removeprefix("~").split()))
        calls = calls - named if value.startswith("~") else calls | named
    return calls


def restrict_calls(calls: set[str]) -> None:
    """Refuse every system call but `calls`, for ever."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(REFUSE))
    for call in calls:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        # Names of other architectures and kernels resolve to a negative number.
        if number >= 0 and seccomp.seccomp_rule_add(context, ALLOW, number, 0):
            raise SystemExit(f"{call} can't be allowed")
    if seccomp.seccomp_load(context):
        raise SystemExit("the filter can't be loaded")


def main() -> None:
    """Confine this process and become the command."""
    unit, command = Path(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    calls = allowed_calls(unit)
    assert values(unit, "MemoryDenyWriteExecute") == ["yes"]
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN)):
        if libc.prctl(option, *(ctypes.c_ulong(one) for one in (value, 0, 0, 0))):
            raise SystemExit(f"prctl({option}): {os.strerror(ctypes.get_errno())}")
    restrict_calls(calls)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
