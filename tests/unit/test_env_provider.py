import os
from pathlib import Path

import pytest

from broker.errors import SettingsInvalidError
from broker.providers.dotenv import read_dotenv
from broker.providers.env import EnvProvider, EnvSettings
from broker.reference import Source
from tests.contract.harness import tools


def file_of(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    file = tmp_path / ".env"
    file.touch()
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.mark.parametrize(
    "name",
    ["LD_PRELOAD", "PATH", "PYTHONPATH", "HOME", "LOGFLUX_CONFIG", "LOGFLUX_LISTEN__PORT", "lower", "A-B", "1A", ""],
)
def test_a_name_that_steers_a_program_can_not_be_declared(name: str) -> None:
    with pytest.raises(ValueError, match="variable"):
        EnvSettings(names=(name,))


def test_the_guides_own_name_can_be_declared() -> None:
    assert EnvSettings(names=("LOGFLUX_PAT",)).names == ("LOGFLUX_PAT",)


async def test_a_declared_variable_leaves_the_environment_so_that_no_child_gets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONTRACT_X", "value")
    provider = EnvProvider(settings=EnvSettings(names=("CONTRACT_X",)), tools=tools())
    assert "CONTRACT_X" not in os.environ
    reading = await provider.fetch(Source("env", "CONTRACT_X"))
    assert reading.document.select(()).reveal() == b"value"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_may_read_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    file = file_of(tmp_path, "A=1\n", mode)
    if mode == 0o640 and os.geteuid() == 0:
        file.chmod(0o620)
    with pytest.raises(SettingsInvalidError, match="chmod 600"):
        EnvProvider(settings=EnvSettings(names=("A",), env_files=(file,)), tools=tools())


def test_a_name_that_is_set_in_two_places_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRACT_TWICE", "1")
    file = file_of(tmp_path, "CONTRACT_TWICE=2\n")
    with pytest.raises(SettingsInvalidError, match="two places"):
        EnvProvider(settings=EnvSettings(names=("CONTRACT_TWICE",), env_files=(file,)), tools=tools())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=b", b"b"),
        ("export A=b", b"b"),
        ("A=", b""),
        ("A=b # comment", b"b"),
        ("A=b#c", b"b#c"),
        ("A='b # c' # d", b"b # c"),
        ("A='$X `id` \\n'", b"$X `id` \\n"),
        ('A="b\\n\\t\\"\\\\"', b'b\n\t"\\'),
        ("A=${X}", b"${X}"),
        ("A=$(id)", b"$(id)"),
        ("A=b\r", b"b"),
        ("# x\n\nA=b\n", b"b"),
    ],
)
def test_the_dialect(text: str, expected: bytes) -> None:
    assert read_dotenv(text.encode(), where="f") == {"A": expected}


@pytest.mark.parametrize(
    "text", ["A", "1A=b", "a=b", "A =b", "A=b\nA=c", "A='b", 'A="b\nB=c"', 'A="\\x"', "A='b' c", "A=b\0", "export"]
)
def test_what_the_dialect_does_not_know_is_refused_with_its_line_and_never_its_text(text: str) -> None:
    with pytest.raises(SettingsInvalidError, match=r"f: line \d+") as raised:
        read_dotenv(text.replace("b", "hunter2").encode(), where="f")
    assert "hunter2" not in raised.value.detail


def test_a_file_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(SettingsInvalidError, match="UTF-8"):
        read_dotenv(b"A=\xff", where="f")
