import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from broker.clock import SystemClock
from broker.errors import (
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SettingsInvalidError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.key_file import read_private
from broker.providers.base import ProviderTools
from broker.providers.env import EnvProvider, EnvSettings, Reader
from broker.reference import Source
from tests.contract.harness import tools

NAME = "BROKER_TEST_VALUE"
SOURCE = Source("env", NAME)
Make = Callable[..., EnvProvider]


def file_of(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    file = tmp_path / "agents.env"
    file.touch()
    file.write_text(text)
    file.chmod(mode)
    return file


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Build providers that are closed at the end; `value` is what the environment has."""
    made = []

    async def build(
        *files: Path,
        value: bytes | None = None,
        limit: int = 100,
        reader: Reader = read_private,
        allow_empty: bool = False,
    ) -> EnvProvider:
        if value is not None:
            # The provider takes it out; monkeypatch puts back what was there before the test.
            monkeypatch.setenv(NAME, os.fsdecode(value))
        settings = EnvSettings(names=(NAME,), env_files=files, allow_empty=allow_empty)
        made.append(await asyncio.to_thread(EnvProvider, settings=settings, tools=tools(limit=limit), reader=reader))
        return made[-1]

    yield build
    for provider in made:
        await provider.aclose()


async def value_of(provider: EnvProvider, source: Source = SOURCE) -> bytes:
    return (await provider.fetch(source)).document.select(()).reveal()


RESERVED = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "HOME",
    "LOGFLUX_CONFIG",
    "LOGFLUX_LOG_LEVEL",
    "LOGFLUX_VERBOSE",
    "LOGFLUX_MOCK_MODE",
    "LOGFLUX_SECURITY_HARDENED",
    "LOGFLUX_PRIVATE_KEY_FILE",
    "LOGFLUX_LISTEN__PORT",
]


@pytest.mark.parametrize("name", [*RESERVED, "lower", "A-B", "1A", "", "A\n", "Ä", "A" * 129])
def test_a_name_that_steers_a_program_or_is_none_can_not_be_declared(name: str) -> None:
    with pytest.raises(ValueError, match="variable"):
        EnvSettings(names=(name,))


@pytest.mark.parametrize("name", ["LOGFLUX_PAT", "LOGFLUX_CONFIGURED", "PATH_TO_KEY", "_X"])
def test_names_are_forbidden_whole_and_not_by_their_beginning(name: str) -> None:
    assert EnvSettings(names=(name,)).names == (name,)


def test_a_file_is_named_by_its_absolute_path() -> None:
    with pytest.raises(ValueError, match="absolute"):
        EnvSettings.model_validate({"names": [NAME], "env_files": ["agents.env"]})


async def test_a_declared_variable_leaves_the_environment_so_that_no_child_gets_it(make: Make) -> None:
    provider = await make(value=b"value")
    assert NAME not in os.environ
    assert NAME.encode() not in os.environb
    assert await value_of(provider) == b"value"


async def test_what_is_not_declared_stays_in_the_environment_and_is_denied(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_TEST_OTHER", "other")
    provider = await make(value=b"value")
    assert os.environ["BROKER_TEST_OTHER"] == "other"
    for name in ("BROKER_TEST_OTHER", "BROKER_TEST", f"{NAME}_2", "PATH"):
        with pytest.raises(UpstreamDeniedError):
            provider.check(Source("env", name))
        with pytest.raises(UpstreamDeniedError):
            await provider.fetch(Source("env", name))


async def test_a_variable_of_the_file_that_is_not_declared_is_denied(make: Make, tmp_path: Path) -> None:
    provider = await make(file_of(tmp_path, f"{NAME}=1\nOTHER=2\n"))
    with pytest.raises(UpstreamDeniedError):
        await provider.fetch(Source("env", "OTHER"))


async def test_a_variable_that_is_set_later_is_not_taken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = await make()
    monkeypatch.setenv(NAME, "late")
    with pytest.raises(SecretMissingError) as raised:
        await provider.fetch(SOURCE)
    assert raised.value.part is MissingPart.VALUE


async def test_an_empty_variable_is_missing_unless_the_settings_take_it(make: Make) -> None:
    with pytest.raises(SecretMissingError):
        await value_of(await make(value=b""))
    assert await value_of(await make(value=b"", allow_empty=True)) == b""


async def test_bytes_that_are_no_text_are_kept(make: Make) -> None:
    assert await value_of(await make(value=b"\xff\xfe\n")) == b"\xff\xfe\n"


async def test_the_limit_counts_bytes_and_is_itself_allowed(make: Make) -> None:
    assert await value_of(await make(value=b"12345", limit=5)) == b"12345"
    with pytest.raises(SecretUnusableError, match="5 bytes"):
        await value_of(await make(value=b"123456", limit=5))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602, 0o666])
async def test_a_file_that_others_may_use_is_refused_with_its_mode_and_the_command(
    make: Make, tmp_path: Path, mode: int
) -> None:
    file = file_of(tmp_path, f"{NAME}=1\n", mode)
    with pytest.raises(SettingsInvalidError, match=f"{mode:04o}.*chmod 600 {file}") as raised:
        await make(file)
    assert str(file) in raised.value.detail


@pytest.mark.parametrize("mode", [0o600, 0o400])
async def test_a_private_file_is_read(make: Make, tmp_path: Path, mode: int) -> None:
    assert await value_of(await make(file_of(tmp_path, f"{NAME}=1\n", mode))) == b"1"


async def test_a_missing_file_is_refused_at_the_start(make: Make, tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalidError, match="nothing"):
        await make(tmp_path / "nothing")


async def test_a_fifo_is_refused_and_does_not_hang(make: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(SettingsInvalidError, match="regular"):
        await make(tmp_path / "fifo")


async def test_a_name_in_the_environment_and_in_a_file_is_refused_and_stays_where_it_was(
    make: Make, tmp_path: Path
) -> None:
    file = file_of(tmp_path, f"{NAME}=from-file\n")
    with pytest.raises(SettingsInvalidError, match=f"{NAME} is set in two places") as raised:
        await make(file, value=b"from-environment")
    assert "from-" not in raised.value.detail
    assert os.environ[NAME] == "from-environment"


async def test_a_name_in_two_files_is_refused(make: Make, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    first, second = file_of(tmp_path, f"{NAME}=1\n"), file_of(tmp_path / "more", f"{NAME}=1\n")
    with pytest.raises(SettingsInvalidError, match="two places"):
        await make(first, second)


async def test_what_is_not_declared_may_stand_in_two_files(make: Make, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    first, second = file_of(tmp_path, f"{NAME}=1\nOTHER=1\n"), file_of(tmp_path / "more", "OTHER=2\n")
    assert await value_of(await make(first, second)) == b"1"


async def test_a_changed_file_is_read_again_also_when_its_size_and_time_are_as_before(
    make: Make, tmp_path: Path
) -> None:
    file = file_of(tmp_path, f"{NAME}=first\n")
    before = file.stat()
    provider = await make(file)
    assert await value_of(provider) == b"first"
    file.write_text(f"{NAME}=other\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await value_of(provider) == b"other"


class Later:
    """A clock by which every file of the test is old."""

    def now(self) -> float:
        return SystemClock().now() + 3600

    def monotonic(self) -> float:
        return 0.0


async def test_a_file_that_did_not_change_for_a_while_is_read_again_only_after_a_change(tmp_path: Path) -> None:
    reads = []

    def reader(file: Path) -> bytes:
        reads.append(file)
        return read_private(file)

    file = file_of(tmp_path, f"{NAME}=first\n")
    before = file.stat()
    settings = EnvSettings(names=(NAME,), env_files=(file,))
    later = ProviderTools(clock=Later(), observer=tools().observer, max_value_bytes=100)
    provider = await asyncio.to_thread(EnvProvider, settings=settings, tools=later, reader=reader)
    assert [await value_of(provider) for _ in range(3)] == [b"first"] * 3
    assert len(reads) == 1
    await asyncio.to_thread(rewrite, file, f"{NAME}=other\n", before)
    assert [await value_of(provider) for _ in range(3)] == [b"other"] * 3
    assert len(reads) == 2
    await provider.aclose()


def rewrite(file: Path, text: str, before: os.stat_result) -> None:
    """Write `text`, of the same size, with the old time of change; return when the file system's clock has moved."""
    while file.stat().st_ctime_ns == before.st_ctime_ns:
        file.write_text(text)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("broken", ["what is this\n", f"{NAME}='half", ""])
async def test_a_file_that_breaks_later_is_unavailable_for_agents_and_explained_to_the_operator(
    make: Make, tmp_path: Path, broken: str
) -> None:
    file = file_of(tmp_path, f"{NAME}=1\n")
    provider = await make(file)
    await provider.ping()
    if broken:
        file.write_text(broken)
    else:
        file.chmod(0o644)
    with pytest.raises(SourceUnavailableError) as told:
        await provider.fetch(SOURCE)
    assert str(file) not in told.value.detail
    with pytest.raises(SourceUnavailableError, match=str(file)):
        await provider.ping()
    file.write_text(f"{NAME}=2\n")
    file.chmod(0o600)
    await provider.ping()
    assert await value_of(provider) == b"2"


async def test_files_are_read_in_one_thread_however_many_ask(make: Make, tmp_path: Path) -> None:
    threads = set()

    def reader(file: Path) -> bytes:
        threads.add(threading.get_ident())
        return read_private(file)

    provider = await make(file_of(tmp_path, f"{NAME}=1\n"), reader=reader)
    threads.clear()
    await asyncio.gather(*(provider.fetch(SOURCE) for _ in range(20)))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


async def test_nothing_is_read_after_the_end(make: Make, tmp_path: Path) -> None:
    provider = await make(file_of(tmp_path, f"{NAME}=1\n"))
    await provider.aclose()
    with pytest.raises(SourceUnavailableError, match="stopping"):
        await provider.fetch(SOURCE)


# Names for credentials of the broker itself.


async def test_a_variable_of_the_broker_itself_is_denied_and_inherited_by_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OWN", "canary")
    file = file_of(tmp_path, "OWN_TOO=canary\n")
    settings = EnvSettings(own_names=("OWN", "OWN_TOO"), env_files=(file,))
    provider = await asyncio.to_thread(EnvProvider, settings=settings, tools=tools())
    for name in settings.own_names:
        with pytest.raises(UpstreamDeniedError, match=r"not declared in providers\.env\.names"):
            await provider.fetch(Source("env", name))
    assert "OWN" not in os.environ
    await provider.aclose()


@pytest.mark.parametrize(
    ("names", "own_names", "reason"),
    [(("A",), ("B", "A"), "A stands in names and in own_names"), ((), (), "declares no name")],
)
def test_names_are_declared_for_agents_or_for_the_broker(
    names: tuple[str, ...], own_names: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        EnvSettings(names=names, own_names=own_names)
