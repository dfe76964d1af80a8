import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import (
    FetchError,
    SecretMissingError,
    SecretUnusableError,
    UpstreamDeniedError,
)
from broker.providers.beneath import Opener, open_beneath, open_by_kernel, open_by_walk, open_root
from broker.providers.file import FileProvider, FileSettings
from broker.reference import Source
from tests.contract.harness import tools


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir(mode=0o700)
    return directory


@pytest.fixture(params=[open_by_kernel, open_by_walk, open_beneath], ids=["kernel", "walk", "either"])
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param


@pytest.fixture
def descriptor(root: Path) -> Iterator[int]:
    found = open_root(str(root))
    yield found
    os.close(found)


def secret(file: Path, data: bytes = b"value", mode: int = 0o600) -> Path:
    file.touch()
    file.write_bytes(data)
    file.chmod(mode)
    return file


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def open_to_all(directory: Path) -> None:
    directory.chmod(0o777)


def volume(root: Path) -> None:
    for name in ("..1", "..2"):
        (root / name).mkdir()
        secret(root / name / "key", name.encode(), 0o440)
    (root / "..data").symlink_to("..1")
    (root / "key").symlink_to("..data/key")


def odd_files(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o600)
    (root / "directory").mkdir()


def swap(root: Path) -> None:
    (root / "..data_tmp").symlink_to("..2")
    (root / "..data_tmp").rename(root / "..data")


def content(opener: Opener, descriptor: int, path: str) -> bytes:
    with os.fdopen(opener(descriptor, path), "rb") as handle:
        return handle.read()


def test_a_link_inside_the_root_is_followed(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "..2026_1").mkdir()
    secret(root / "..2026_1" / "tls.key")
    (root / "..data").symlink_to("..2026_1")
    (root / "tls.key").symlink_to("..data/tls.key")
    assert content(opener, descriptor, "tls.key") == b"value"


@pytest.mark.parametrize(
    "target", ["../outside", "/etc/hostname", "/proc/self/environ", "sub/../../outside", "../root/../outside"]
)
def test_a_link_that_leaves_the_root_is_refused(opener: Opener, descriptor: int, root: Path, target: str) -> None:
    secret(root.parent / "outside")
    (root / "sub").mkdir()
    (root / "link").symlink_to(target)
    with pytest.raises(OSError, match=r"(?i)cross-device|too many|invalid"):
        opener(descriptor, "link")


def test_dots_that_leave_the_root_are_refused(opener: Opener, descriptor: int, root: Path) -> None:
    secret(root.parent / "outside")
    with pytest.raises(OSError, match=r"(?i)cross-device"):
        opener(descriptor, "../outside")


def test_a_loop_of_links_ends(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"(?i)too many"):
        opener(descriptor, "a")


def test_a_nul_does_not_cut_the_path(opener: Opener, descriptor: int, root: Path) -> None:
    secret(root / "key")
    with pytest.raises(OSError, match=r"(?i)invalid"):
        opener(descriptor, "key\0x")


def test_no_descriptor_is_left_open(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "d").mkdir()
    (root / "l").symlink_to("d/nothing")
    before = _descriptors()
    for path in ("nothing", "d/nothing", "l", "../x", "d"):
        try:
            os.close(opener(descriptor, path))
        except OSError:
            continue
    assert _descriptors() == before


async def fetch(root: Path, path: str = "key", kind: str = "private") -> bytes:
    provider = FileProvider(
        settings=FileSettings.model_validate({"roots": [{"path": str(root), "kind": kind}]}), tools=tools()
    )
    try:
        reading = await provider.fetch(Source("file", f"{root}/{path}"))
    finally:
        await provider.aclose()
    return reading.document.select(()).reveal()


async def test_exactly_one_line_end_is_left_out(root: Path) -> None:
    for raw, expected in (
        (b"v\n", b"v"),
        (b"v\r\n", b"v"),
        (b"v\n\n", b"v\n"),
        (b"v\r", b"v\r"),
        (b"\xff\n", b"\xff\n"),
    ):
        secret(root / "key", raw)
        assert await fetch(root) == expected


@pytest.mark.parametrize(
    ("mode", "kind", "allowed"),
    [
        (0o600, "private", True),
        (0o400, "private", True),
        (0o640, "private", False),
        (0o604, "private", False),
        (0o440, "kubernetes", True),
        (0o640, "kubernetes", True),
        (0o644, "kubernetes", True),
        (0o660, "kubernetes", False),
        (0o444, "world_readable", True),
        (0o646, "world_readable", False),
        (0o444, "private", False),
    ],
)
async def test_the_mode_gate(root: Path, mode: int, kind: str, allowed: bool) -> None:
    secret(root / "key", mode=mode)
    if allowed:
        assert await fetch(root, kind=kind) == b"value"
    else:
        with pytest.raises(SecretUnusableError, match="chmod"):
            await fetch(root, kind=kind)


async def test_a_fifo_a_directory_and_a_device_are_no_secrets_and_never_hang(root: Path) -> None:
    odd_files(root)
    for path in ("fifo", "directory"):
        with pytest.raises(SecretUnusableError):
            await fetch(root, path)


async def test_a_second_name_of_a_file_is_refused(root: Path) -> None:
    secret(root.parent / "outside")
    os.link(root.parent / "outside", root / "key")
    with pytest.raises(SecretUnusableError, match="second name"):
        await fetch(root)


async def test_a_root_that_others_may_write_is_refused(root: Path) -> None:
    secret(root / "key")
    open_to_all(root)
    with pytest.raises(SecretUnusableError, match="go-w"):
        await fetch(root)


async def test_a_path_below_no_root_is_denied_without_a_look(root: Path) -> None:
    provider = FileProvider(settings=FileSettings.model_validate({"roots": [{"path": str(root)}]}), tools=tools())
    for path in ("/etc/hostname", f"{root}x/key", str(root)):
        with pytest.raises(UpstreamDeniedError):
            provider.check(Source("file", path))
    await provider.aclose()


async def test_the_swap_of_a_kubernetes_volume_is_seen(root: Path) -> None:
    volume(root)
    assert await fetch(root, kind="kubernetes") == b"..1"
    swap(root)
    assert await fetch(root, kind="kubernetes") == b"..2"


async def test_no_error_of_a_file_shows_its_path_or_content(root: Path) -> None:
    for path in ("nothing", "key"):
        secret(root / "key", b"canary-4711", 0o666)
        with pytest.raises(FetchError) as raised:
            await fetch(root, path)
        assert "canary-4711" not in str(raised.value)
        assert isinstance(raised.value, SecretMissingError | SecretUnusableError)


@pytest.mark.parametrize("path", ["relative", "/", "/a/../b"])
def test_a_root_is_an_absolute_path_and_not_the_top(path: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        FileSettings.model_validate({"roots": [{"path": path}]})
