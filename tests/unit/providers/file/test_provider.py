import asyncio
import errno
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import (
    BrokerError,
    FetchError,
    MissingPart,
    SecretMissingError,
    SecretUnusableError,
    SourceUnavailableError,
    UpstreamDeniedError,
)
from broker.limits.byte_budget import ByteBudget
from broker.providers.file.beneath import Opener, Visit, open_beneath, open_by_kernel, open_by_walk
from broker.providers.file.gates import gate_directory, gate_file
from broker.providers.file.provider import FileProvider
from broker.providers.file.settings import FileSettings, RootKind
from broker.reference import Source
from broker.secret import Encoding, Reading
from tests.contract.harness import Gate, tools
from tests.waiting import until

OURS = os.geteuid()
STRANGER = 54_321
GROUP = os.getegid()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir(mode=0o700)
    return directory


def secret(file: Path, data: bytes = b"value", mode: int = 0o600) -> Path:
    file.touch()
    file.write_bytes(data)
    file.chmod(mode)
    return file


def change_mode(directory: Path, mode: int) -> None:
    directory.chmod(mode)


def unmount(root: Path) -> None:
    root.rmdir()


def mount(root: Path) -> None:
    root.mkdir(mode=0o700)


Make = Callable[..., FileProvider]


@pytest.fixture
async def make(root: Path) -> AsyncIterator[Make]:
    made = []

    def build(*, opener: Opener = open_beneath, limit: int = 100, **settings: object) -> FileProvider:
        top = {name: settings.pop(name) for name in ("trim_newline", "max_threads") if name in settings}
        model = FileSettings.model_validate({"roots": [{"path": str(root), **settings}], **top})
        made.append(FileProvider(settings=model, tools=tools(limit=limit), opener=opener))
        return made[-1]

    yield build
    for provider in made:
        await provider.aclose()


async def read(provider: FileProvider, file: Path) -> Reading:
    async with asyncio.timeout(20):
        return await provider.fetch(Source("file", str(file)))


async def value_of(provider: FileProvider, file: Path) -> bytes:
    return (await read(provider, file)).document.select(()).reveal()


async def refusal(provider: FileProvider, file: Path) -> FetchError:
    with pytest.raises(FetchError) as raised:
        await read(provider, file)
    return raised.value


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def failing(number: int) -> Opener:
    def fail(_root: int, _path: str, _visit: Visit) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("opener", [open_by_kernel, open_by_walk], ids=["kernel", "walk"])
async def test_the_swap_of_a_kubernetes_volume_is_seen(make: Make, root: Path, opener: Opener) -> None:
    for name in ("..1", "..2"):
        (root / name).mkdir()
        secret(root / name / "key", name.encode(), 0o644)
    (root / "..data").symlink_to("..1")
    (root / "key").symlink_to("..data/key")
    # The kubelet's own mode of a volume's top: others may add names, and touch nothing of ours.
    change_mode(root, 0o1777)
    provider = make(kind="kubernetes", opener=opener)
    assert await value_of(provider, root / "key") == b"..1"
    (root / "..data_tmp").symlink_to("..2")
    (root / "..data_tmp").rename(root / "..data")
    assert await value_of(provider, root / "key") == b"..2"


@pytest.mark.parametrize(
    ("raw", "trimmed"),
    [
        (b"v", b"v"),
        (b"v\n", b"v"),
        (b"v\r\n", b"v"),
        (b"v\n\n", b"v\n"),
        (b"v\r\n\r\n", b"v\r\n"),
        (b"v\r\r\n", b"v\r"),
        (b"v\r", b"v\r"),
        (b" v \n", b" v "),
        (b"\xff\n", b"\xff\n"),
    ],
)
async def test_exactly_one_line_end_of_a_text_is_left_out(make: Make, root: Path, raw: bytes, trimmed: bytes) -> None:
    file = secret(root / "key", raw)
    assert await value_of(make(), file) == trimmed
    assert await value_of(make(trim_newline=False), file) == raw


async def test_what_is_no_text_is_kept_to_the_byte_for_base64(make: Make, root: Path) -> None:
    found = (await read(make(), secret(root / "key", b"\x00\xff\r\n"))).document.select(())
    assert found.reveal() == b"\x00\xff\r\n"
    assert found.encoding is Encoding.BASE64


async def test_a_root_of_text_refuses_anything_else(make: Make, root: Path) -> None:
    provider = make(encoding="text")
    assert await value_of(provider, secret(root / "key", b"text\n")) == b"text"
    error = await refusal(provider, secret(root / "key", b"\xff"))
    assert isinstance(error, SecretUnusableError)
    assert "UTF-8" in error.detail


@pytest.mark.parametrize("raw", [b"", b"\n", b"\r\n"])
async def test_an_empty_file_is_missing_its_value(make: Make, root: Path, raw: bytes) -> None:
    error = await refusal(make(), secret(root / "key", raw))
    assert isinstance(error, SecretMissingError)
    assert error.part is MissingPart.VALUE


async def test_the_limit_counts_bytes_and_is_itself_allowed(make: Make, root: Path) -> None:
    file = secret(root / "key", b"12345")
    assert await value_of(make(limit=5), file) == b"12345"
    assert isinstance(await refusal(make(limit=4), file), SecretUnusableError)


async def test_a_large_file_is_read_when_there_is_room_and_small_ones_wait_for_nobody(root: Path) -> None:
    room = ByteBudget(limit=100_000, most=100_000)
    settings = FileSettings.model_validate({"roots": [{"path": str(root)}]})
    provider = FileProvider(settings=settings, tools=replace(tools(limit=100_000), answers=room))
    large, small = secret(root / "large", b"x" * 100_000), secret(root / "small")
    held = room.take_or_refuse("others", 1)
    reading = asyncio.create_task(read(provider, large))
    await until(lambda: room.waiting == 1)
    await read(provider, small)
    held.give_back()
    assert (await reading).document.size == 100_000
    assert room.used == 0
    await provider.aclose()


async def test_a_large_file_that_is_too_large_gives_its_room_back(root: Path) -> None:
    room = ByteBudget(limit=100_000, most=100_000)
    settings = FileSettings.model_validate({"roots": [{"path": str(root)}]})
    provider = FileProvider(settings=settings, tools=replace(tools(limit=100_000), answers=room))
    error = await refusal(provider, secret(root / "large", b"x" * 100_001))
    assert "larger than 100000 bytes" in error.detail
    assert room.used == 0
    await provider.aclose()


async def test_the_limit_counts_what_is_read_because_a_claimed_size_proves_nothing(make: Make, root: Path) -> None:
    error = await refusal(make(opener=_limits, kind="world_readable"), root / "key")
    assert isinstance(error, SecretUnusableError)
    assert "larger than 100 bytes" in error.detail


def _limits(_root: int, _path: str, _visit: Visit) -> int:
    # A file of /proc says that it has 0 bytes, and gives some hundred.
    found = os.open("/proc/self/limits", os.O_RDONLY)
    assert os.fstat(found).st_size == 0
    return found


def _status(mode: int, *, uid: int = OURS, gid: int = GROUP, links: int = 1) -> os.stat_result:
    kind = 0 if stat.S_IFMT(mode) else stat.S_IFREG
    return os.stat_result((kind | mode, 1, 1, links, uid, gid, 5, 0, 0, 0))


@pytest.mark.parametrize(
    ("kind", "mode", "uid", "gid", "allowed"),
    [
        (RootKind.PRIVATE, 0o600, OURS, GROUP, True),
        (RootKind.PRIVATE, 0o400, 0, 0, True),
        (RootKind.PRIVATE, 0o600, STRANGER, GROUP, False),
        (RootKind.PRIVATE, 0o640, 0, GROUP, False),
        (RootKind.PRIVATE, 0o440, 0, GROUP, False),
        (RootKind.PRIVATE, 0o604, OURS, GROUP, False),
        (RootKind.PRIVATE, 0o620, OURS, GROUP, False),
        (RootKind.PRIVATE, 0o4600, OURS, GROUP, False),
        (RootKind.KUBERNETES, 0o400, 0, 0, True),
        (RootKind.KUBERNETES, 0o440, 0, GROUP, True),
        (RootKind.KUBERNETES, 0o640, 0, GROUP, True),
        (RootKind.KUBERNETES, 0o440, 0, STRANGER, False),
        (RootKind.KUBERNETES, 0o644, 0, STRANGER, True),
        (RootKind.KUBERNETES, 0o444, 0, STRANGER, True),
        (RootKind.KUBERNETES, 0o660, 0, GROUP, False),
        (RootKind.KUBERNETES, 0o646, 0, GROUP, False),
        (RootKind.KUBERNETES, 0o440, STRANGER, GROUP, False),
        (RootKind.WORLD_READABLE, 0o444, 0, 0, True),
        (RootKind.WORLD_READABLE, 0o644, OURS, GROUP, True),
        (RootKind.WORLD_READABLE, 0o646, 0, 0, False),
        (RootKind.WORLD_READABLE, 0o664, 0, 0, False),
        (RootKind.WORLD_READABLE, 0o444, STRANGER, 0, False),
    ],
)
def test_the_gate_of_owner_and_mode(kind: RootKind, mode: int, uid: int, gid: int, allowed: bool) -> None:
    status = _status(mode, uid=uid, gid=gid)
    if allowed:
        gate_file(kind, status, path="/r/key")
        return
    with pytest.raises(SecretUnusableError) as raised:
        gate_file(kind, status, path="/r/key")
    if uid == STRANGER:
        assert str(STRANGER) in raised.value.detail
    else:
        assert f"{mode:04o}" in raised.value.detail
        assert "chmod 600 /r/key" in raised.value.detail


def test_group_reading_is_only_for_files_that_root_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    gate_file(RootKind.KUBERNETES, _status(0o440, uid=0), path="/r/key")
    with pytest.raises(SecretUnusableError, match="0440"):
        gate_file(RootKind.KUBERNETES, _status(0o440, uid=STRANGER), path="/r/key")


def test_a_supplementary_group_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    status = _status(0o440, uid=0, gid=STRANGER)
    with pytest.raises(SecretUnusableError, match="0440"):
        gate_file(RootKind.KUBERNETES, status, path="/r/key")
    monkeypatch.setattr(os, "getgroups", lambda: [STRANGER])
    gate_file(RootKind.KUBERNETES, status, path="/r/key")


@pytest.mark.parametrize("kind", list(RootKind))
async def test_the_gate_stands_before_the_read_for_every_kind_of_root(make: Make, root: Path, kind: RootKind) -> None:
    error = await refusal(make(kind=kind.value), secret(root / "key", b"canary-4711", 0o666))
    assert isinstance(error, SecretUnusableError)
    assert "0666" in error.detail
    assert "canary" not in error.detail


async def test_a_second_name_of_a_file_is_refused(make: Make, root: Path) -> None:
    os.link(secret(root.parent / "outside"), root / "key")
    error = await refusal(make(), root / "key")
    assert isinstance(error, SecretUnusableError)
    assert "hard link" in error.detail


@pytest.mark.parametrize(
    ("mode", "allowed"),
    [(0o700, True), (0o755, True), (0o1777, True), (0o1770, True), (0o777, False), (0o770, False), (0o702, False)],
)
def test_the_gate_of_directories(mode: int, allowed: bool) -> None:
    status = _status(stat.S_IFDIR | mode)
    if allowed:
        gate_directory(status)
    else:
        with pytest.raises(SecretUnusableError, match=rf"{mode:04o}.*chmod go-w"):
            gate_directory(status)


async def test_a_root_that_others_could_replace_by_a_link_is_refused(make: Make, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "root").mkdir(parents=True, mode=0o700)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    file = secret(private / "key", b"of somebody else")
    provider = make(path=home / "root")
    secret(home / "root" / "key")
    assert await value_of(provider, home / "root" / "key") == b"value"
    # Who may write in the directory above the root replaces the root as a whole.
    (home / "root").rename(home / "before")
    (home / "root").symlink_to(private)
    change_mode(home, 0o777)
    error = await refusal(provider, home / "root" / "key")
    assert isinstance(error, SecretUnusableError)
    assert "chmod go-w" in error.detail
    change_mode(home, 0o755)
    assert await value_of(provider, home / "root" / "key") == file.read_bytes(), "a link of our own is followed"


@pytest.mark.skipif(OURS != 0, reason="only root can give a link to somebody else")
async def test_a_root_behind_a_link_of_another_user_is_refused(make: Make, root: Path, tmp_path: Path) -> None:
    secret(root / "key")
    link = tmp_path / "link"
    link.symlink_to(root)
    provider = make(path=link)
    assert await value_of(provider, link / "key") == b"value"
    os.lchown(link, STRANGER, GROUP)
    error = await refusal(provider, link / "key")
    assert isinstance(error, SecretUnusableError)
    assert f"user {STRANGER}" in error.detail


def test_a_directory_of_another_user_is_refused_who_could_put_a_link_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # The link leads to a file of the broker's own below the same root, which that user may not read.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for owner in (0, 1000):
        gate_directory(_status(stat.S_IFDIR | 0o755, uid=owner))
    with pytest.raises(SecretUnusableError, match=f"{STRANGER}.*chown"):
        gate_directory(_status(stat.S_IFDIR | 0o755, uid=STRANGER))


@pytest.mark.parametrize("opener", [open_by_kernel, open_by_walk], ids=["kernel", "walk"])
@pytest.mark.parametrize("where", [".", "a", "a/b"])
async def test_a_directory_that_others_may_write_is_refused_wherever_it_is_on_the_way(
    make: Make, root: Path, opener: Opener, where: str
) -> None:
    (root / "a" / "b").mkdir(parents=True)
    file = secret(root / "a" / "b" / "key")
    provider = make(opener=opener)
    assert await value_of(provider, file) == b"value"
    change_mode(root / where, 0o777)
    error = await refusal(provider, file)
    assert isinstance(error, SecretUnusableError)
    assert "chmod go-w" in error.detail


@pytest.mark.parametrize("opener", [open_by_kernel, open_by_walk], ids=["kernel", "walk"])
async def test_a_fifo_a_directory_and_a_socket_are_no_secrets_never_hang_and_leak_nothing(
    make: Make, root: Path, opener: Opener
) -> None:
    os.mkfifo(root / "fifo", 0o600)
    (root / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        provider = make(opener=opener)
        before = descriptors()
        for name in ("fifo", "directory", "socket"):
            error = await refusal(provider, root / name)
            assert isinstance(error, SecretUnusableError), name
            assert "regular" in error.detail
        assert descriptors() == before


async def test_a_path_below_no_root_is_denied_without_a_look(make: Make, root: Path) -> None:
    def never(_root: int, _path: str, _visit: Visit) -> int:
        raise AssertionError

    provider = make(opener=never)
    for path in ("/etc/hostname", f"{root}x/key", str(root), str(root.parent / "key")):
        with pytest.raises(UpstreamDeniedError, match="roots"):
            provider.check(Source("file", path))
        assert isinstance(await refusal(provider, Path(path)), UpstreamDeniedError)
    provider.check(Source("file", f"{root}/key"))


async def test_the_nearest_root_decides(tmp_path: Path) -> None:
    (tmp_path / "r" / "public").mkdir(parents=True)
    secret(tmp_path / "r" / "public" / "key", mode=0o444)
    secret(tmp_path / "r" / "key", mode=0o444)
    roots = [{"path": str(tmp_path / "r")}, {"path": str(tmp_path / "r" / "public"), "kind": "world_readable"}]
    provider = FileProvider(settings=FileSettings.model_validate({"roots": roots}), tools=tools())
    assert await value_of(provider, tmp_path / "r" / "public" / "key") == b"value"
    assert isinstance(await refusal(provider, tmp_path / "r" / "key"), SecretUnusableError)
    await provider.aclose()


@pytest.mark.parametrize(
    ("number", "expected", "text"),
    [
        (errno.EXDEV, UpstreamDeniedError, "outside the root"),
        (errno.ELOOP, UpstreamDeniedError, "outside the root"),
        (errno.ENOENT, SecretMissingError, "no such file"),
        (errno.ENOTDIR, SecretMissingError, "no such file"),
        (errno.ENAMETOOLONG, SecretMissingError, "no such file"),
        (errno.EACCES, SourceUnavailableError, "owner and its mode"),
        (errno.EIO, SourceUnavailableError, "file system"),
        (errno.EAGAIN, SourceUnavailableError, "file system"),
        (errno.EMFILE, SourceUnavailableError, "file system"),
        (errno.ENXIO, SecretUnusableError, "regular"),
    ],
)
async def test_what_the_system_says_becomes_the_error_that_it_means(
    make: Make, root: Path, number: int, expected: type[BrokerError], text: str
) -> None:
    error = await refusal(make(opener=failing(number)), root / "key")
    assert isinstance(error, expected)
    assert text in error.detail
    if isinstance(error, SecretMissingError):
        assert error.part is MissingPart.PATH


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EAGAIN, errno.ESTALE])
async def test_a_moment_without_the_file_is_looked_at_twice(make: Make, root: Path, number: int) -> None:
    left = [failing(number)]

    def once(at: int, path: str, visit: Visit) -> int:
        return (left.pop() if left else open_beneath)(at, path, visit)

    assert await value_of(make(opener=once), secret(root / "key")) == b"value"
    assert not left


def _changing(file: Path, times: int) -> Opener:
    """Return an opener whose files change right after the first look at them, `times` times."""
    left = [times]

    def opened(at: int, path: str, visit: Visit) -> int:
        found = open_beneath(at, path, visit)
        if left[0]:
            left[0] -= 1
            _Fstat.pending[found] = file
        return found

    return opened


class _Fstat:
    """Changes a file right after the first look at its descriptor."""

    pending: dict[int, Path] = {}  # noqa: RUF012  The patched function has no instance; each entry is taken out once.


@pytest.fixture
def changing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], Opener]:
    real = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        seen = real(descriptor)
        file = _Fstat.pending.pop(descriptor, None)
        if file is not None:
            with file.open("ab") as handle:
                handle.write(b"+")
        return seen

    monkeypatch.setattr(os, "fstat", fstat)
    return _changing


async def test_a_file_that_changes_while_it_is_read_is_read_again(
    make: Make, root: Path, changing: Callable[[Path, int], Opener]
) -> None:
    file = secret(root / "key")
    assert await value_of(make(opener=changing(file, 1)), file) == b"value+"


async def test_a_file_that_keeps_changing_is_unavailable_and_never_half_read(
    make: Make, root: Path, changing: Callable[[Path, int], Opener]
) -> None:
    file = secret(root / "key")
    error = await refusal(make(opener=changing(file, 2)), file)
    assert isinstance(error, SourceUnavailableError)
    assert error.retry_after is not None


async def test_the_version_is_when_the_file_was_changed(make: Make, root: Path) -> None:
    file = secret(root / "key")
    os.utime(file, ns=(0, 1_700_000_000_000_000_007))
    assert (await read(make(), file)).version == "2023-11-14T22:13:20.000000007Z"


async def test_a_time_that_is_no_date_is_no_version_and_no_failure(make: Make, root: Path) -> None:
    def far(at: int, path: str, visit: Visit) -> int:
        found = open_beneath(at, path, visit)
        # What a file system can't keep, it cuts; memory files keep every time.
        memory = os.memfd_create("far")
        os.fchmod(memory, 0o600)
        os.write(memory, os.read(found, 100))
        os.lseek(memory, 0, os.SEEK_SET)
        os.close(found)
        os.utime(memory, (0, 300_000_000_000))
        return memory

    reading = await read(make(opener=far), secret(root / "key"))
    assert reading.document.select(()).reveal() == b"value"
    assert reading.version is None


async def test_a_root_that_is_not_mounted_is_unavailable_not_missing_and_heals(make: Make, root: Path) -> None:
    unmount(root)
    provider = make()
    assert isinstance(await refusal(provider, root / "key"), SourceUnavailableError)
    with pytest.raises(SourceUnavailableError, match="mounted"):
        await provider.ping()
    mount(root)
    await provider.ping()
    assert await value_of(provider, secret(root / "key")) == b"value"


async def test_a_root_that_is_a_file_is_unavailable(make: Make, root: Path) -> None:
    unmount(root)
    secret(root)
    with pytest.raises(SourceUnavailableError):
        await make().ping()


async def test_no_more_threads_than_declared_read_at_once(make: Make, root: Path) -> None:
    gate, reading = Gate(), set[int]()
    gate.shut()
    both = threading.Barrier(3, timeout=20)

    def hold(at: int, path: str, visit: Visit) -> int:
        reading.add(threading.get_ident())
        if path == "key":
            both.wait()
        gate.wait()
        return open_beneath(at, path, visit)

    secret(root / "key")
    secret(root / "other")
    provider = make(opener=hold, max_threads=2)
    asked = [asyncio.ensure_future(read(provider, root / name)) for name in ("key", "key", "other", "other")]
    # Both threads are in the opener now, and nobody else can come.
    await asyncio.to_thread(both.wait)
    assert len(reading) == 2
    gate.open()
    await asyncio.gather(*asked)
    assert len(reading) == 2


async def test_reads_that_are_given_up_leave_no_descriptor(make: Make, root: Path) -> None:
    gate = Gate()

    def hold(at: int, path: str, visit: Visit) -> int:
        gate.wait()
        return open_beneath(at, path, visit)

    file = secret(root / "key")
    provider = make(opener=hold, max_threads=2)
    assert await value_of(provider, file) == b"value"
    before = descriptors()
    gate.shut()
    asked = [asyncio.ensure_future(read(provider, file)) for _ in range(6)]
    # One turn of the loop: all six are with the threads.
    await asyncio.sleep(0)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    gate.open()
    # Two reads, one after the other on each thread, end after those that were given up.
    await asyncio.gather(*(value_of(provider, file) for _ in range(4)))
    await asyncio.to_thread(provider._pool.shutdown)
    assert descriptors() == before


async def test_nothing_is_read_after_the_end(make: Make, root: Path) -> None:
    provider = make()
    await provider.aclose()
    error = await refusal(provider, secret(root / "key"))
    assert isinstance(error, SourceUnavailableError)
    assert "stopping" in error.detail


@pytest.mark.parametrize("path", ["relative", "/", "/a/../b"])
def test_a_root_is_an_absolute_path_and_not_the_top(path: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        FileSettings.model_validate({"roots": [{"path": path}]})


@pytest.mark.parametrize(
    "section",
    [
        {"roots": []},
        {"roots": [{"path": "/r", "kind": "public"}]},
        {"roots": [{"path": "/r", "mode": "0644"}]},
        {"roots": [{"path": "/r"}], "max_threads": 0},
        {"roots": [{"path": "/r"}], "threads": 2},
    ],
)
def test_settings_that_mean_nothing_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        FileSettings.model_validate(section)
