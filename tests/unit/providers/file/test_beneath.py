import ctypes
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.providers.file import beneath
from broker.providers.file.beneath import Opener, open_beneath, open_by_kernel, open_by_walk, open_root, openat2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir(mode=0o700)
    (directory / "d").mkdir()
    (directory / "d" / "f").write_bytes(b"value")
    (tmp_path / "outside").write_bytes(b"outside")
    return directory


@pytest.fixture(params=[open_by_kernel, open_by_walk, open_beneath], ids=["kernel", "walk", "either"])
def opener(request: pytest.FixtureRequest) -> Opener:
    return request.param


@pytest.fixture
def descriptor(root: Path) -> Iterator[int]:
    found = open_root(str(root))
    yield found
    os.close(found)


def content(opener: Opener, descriptor: int, path: str) -> bytes:
    with os.fdopen(opener(descriptor, path, lambda _: None), "rb") as handle:
        return handle.read()


def refusal(opener: Opener, descriptor: int, path: str) -> int:
    with pytest.raises(OSError) as raised:
        content(opener, descriptor, path)
    assert raised.value.errno is not None
    return raised.value.errno


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_below_the_root_is_opened(opener: Opener, descriptor: int) -> None:
    assert content(opener, descriptor, "d/f") == b"value"


def test_the_links_of_a_kubernetes_volume_are_followed(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "k").mkdir()
    (root / "k" / "..2026_1").mkdir()
    (root / "k" / "..2026_1" / "tls.key").write_bytes(b"key")
    (root / "k" / "..data").symlink_to("..2026_1")
    (root / "k" / "tls.key").symlink_to("..data/tls.key")
    assert content(opener, descriptor, "k/tls.key") == b"key"


def test_a_link_that_goes_up_and_stays_inside_is_followed(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "e").mkdir()
    (root / "e" / "l").symlink_to(".././d//f")
    assert content(opener, descriptor, "e/l") == b"value"


@pytest.mark.parametrize(
    "target",
    ["../outside", "/etc/hostname", "/proc/self/environ", "d/../../outside", "../root/../outside", "../root/d/f"],
)
def test_a_link_that_leaves_the_root_is_refused_also_in_passing(
    opener: Opener, descriptor: int, root: Path, target: str
) -> None:
    (root / "link").symlink_to(target)
    assert refusal(opener, descriptor, "link") == errno.EXDEV


def test_an_absolute_link_is_refused_also_when_it_points_inside(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "link").symlink_to(root / "d" / "f")
    assert refusal(opener, descriptor, "link") == errno.EXDEV


def test_a_linked_directory_that_leaves_the_root_is_refused(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "up").symlink_to("..")
    assert refusal(opener, descriptor, "up/outside") == errno.EXDEV


@pytest.mark.parametrize("path", ["../outside", "d/../../outside"])
def test_dots_that_leave_the_root_are_refused(opener: Opener, descriptor: int, path: str) -> None:
    assert refusal(opener, descriptor, path) == errno.EXDEV


@pytest.mark.parametrize("path", ["../outside", "d/../../outside", "absolute", "up/outside", "magic"])
def test_the_kernel_refuses_by_itself_what_leaves_the_root(descriptor: int, root: Path, path: str) -> None:
    (root / "absolute").symlink_to(root / "d" / "f")
    (root / "up").symlink_to("..")
    (root / "magic").symlink_to("/proc/self/environ")
    with pytest.raises(OSError) as raised:
        os.close(openat2(descriptor, path))
    assert raised.value.errno == errno.EXDEV


def test_a_loop_of_links_ends(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert refusal(opener, descriptor, "a") == errno.ELOOP


@pytest.mark.parametrize(("links", "opened"), [(8, True), (9, False)])
def test_at_most_eight_links_are_followed(
    opener: Opener, descriptor: int, root: Path, links: int, opened: bool
) -> None:
    (root / "l0").symlink_to("d/f")
    for number in range(1, links):
        (root / f"l{number}").symlink_to(f"l{number - 1}")
    if opened:
        assert content(opener, descriptor, f"l{links - 1}") == b"value"
    else:
        assert refusal(opener, descriptor, f"l{links - 1}") == errno.ELOOP


@pytest.mark.parametrize(
    ("path", "number"),
    [("nothing", errno.ENOENT), ("nothing/f", errno.ENOENT), ("d/f/g", errno.ENOTDIR), ("d/f\0x", errno.EINVAL)],
)
def test_what_is_not_there_is_named_and_a_nul_does_not_cut_the_path(
    opener: Opener, descriptor: int, path: str, number: int
) -> None:
    assert refusal(opener, descriptor, path) == number


def test_a_fifo_is_opened_without_waiting_for_its_writer(opener: Opener, descriptor: int, root: Path) -> None:
    os.mkfifo(root / "fifo", 0o600)
    opened = opener(descriptor, "fifo", lambda _: None)
    assert stat.S_ISFIFO(os.fstat(opened).st_mode)
    os.close(opened)


def test_every_directory_on_the_way_is_shown_behind_links_too(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "real").mkdir(mode=0o750)
    (root / "real" / "f").write_bytes(b"x")
    (root / "link").symlink_to("real")
    (root / "d" / "l").symlink_to("../link/f")
    seen: list[os.stat_result] = []
    os.close(opener(descriptor, "d/l", seen.append))
    expected = [(root / name).stat().st_ino for name in ("", "d", "real")]
    assert [status.st_ino for status in seen] == expected


def test_what_a_visitor_raises_is_passed_on_and_leaves_no_descriptor(opener: Opener, descriptor: int) -> None:
    class RefusedError(Exception):
        pass

    def refuse(_: os.stat_result) -> None:
        raise RefusedError

    before = descriptors()
    with pytest.raises(RefusedError):
        opener(descriptor, "d/f", refuse)
    assert descriptors() == before


def test_no_descriptor_is_left_open(opener: Opener, descriptor: int, root: Path) -> None:
    (root / "l").symlink_to("d/nothing")
    (root / "out").symlink_to("../outside")
    (root / "loop").symlink_to("loop")
    before = descriptors()
    for path in ("nothing", "d/nothing", "d/f/g", "l", "out", "loop", "../x", "d/f\0"):
        refusal(opener, descriptor, path)
    content(opener, descriptor, "d/f")
    assert descriptors() == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_kernel_without_the_call_is_answered_with_the_walk(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, number: int
) -> None:
    monkeypatch.setattr(beneath, "openat2", _failing(number))
    assert content(open_beneath, descriptor, "d/f") == b"value"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EXDEV, errno.ENOENT])
def test_a_refusal_of_the_kernel_is_not_asked_again_of_the_walk(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, number: int
) -> None:
    monkeypatch.setattr(beneath, "openat2", _failing(number))
    assert refusal(open_beneath, descriptor, "d/f") == number


def _failing(number: int) -> Callable[[int, str], int]:
    def fail(_root: int, _path: str) -> int:
        raise OSError(number, os.strerror(number))

    return fail


class _Racing:
    """Answers the system call with EAGAIN a number of times before it makes it."""

    def __init__(self, times: int) -> None:
        self.left = times
        self._libc = ctypes.CDLL(None, use_errno=True)

    def syscall(self, *arguments: Any) -> int:
        if self.left:
            self.left -= 1
            ctypes.set_errno(errno.EAGAIN)
            return -1
        return int(self._libc.syscall(*arguments))


@pytest.mark.parametrize(("times", "opened"), [(2, True), (3, False)])
def test_a_race_in_the_kernel_is_tried_three_times(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, times: int, opened: bool
) -> None:
    racing = _Racing(times)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: racing)
    if opened:
        assert content(open_by_kernel, descriptor, "d/f") == b"value"
    else:
        assert refusal(open_by_kernel, descriptor, "d/f") == errno.EAGAIN


def test_a_file_that_is_swapped_between_opening_and_inspecting_is_told(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, root: Path
) -> None:
    opened = beneath.openat2

    def then_swap(at: int, path: str) -> int:
        found = opened(at, path)
        (root / "new").write_bytes(b"new")
        (root / "new").rename(root / "d" / "f")
        return found

    monkeypatch.setattr(beneath, "openat2", then_swap)
    before = descriptors()
    assert refusal(open_by_kernel, descriptor, "d/f") == errno.EAGAIN
    assert descriptors() == before


@pytest.mark.parametrize("path", ["d/f", "f2"])
def test_what_becomes_a_link_after_the_walk_looked_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, root: Path, path: str
) -> None:
    (root / "f2").write_bytes(b"value")
    (root.parent / "f").write_bytes(b"outside")
    look, name = beneath._link_target, path.partition("/")[0]

    def then_swap(directory: int, seen: str) -> str | None:
        target = look(directory, seen)
        if seen == name:
            (root / name).rename(root / "away")
            (root / name).symlink_to(".." if name == "d" else "../outside")
        return target

    monkeypatch.setattr(beneath, "_link_target", then_swap)
    assert refusal(open_by_walk, descriptor, path) == errno.EAGAIN


def test_no_race_of_a_directory_and_a_link_ever_leaves_the_root(opener: Opener, descriptor: int, root: Path) -> None:
    (root.parent / "f").write_bytes(b"outside")
    (root / "good").mkdir()
    (root / "good" / "f").write_bytes(b"value")
    (root / "evil").symlink_to("..")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name in ("good", "evil"):
                (root / name).rename(root / "now")
                (root / "now").rename(root / name)

    racer = threading.Thread(target=swap)
    racer.start()
    read = set()
    try:
        for _ in range(1000):
            try:
                read.add(content(opener, descriptor, "now/f"))
            except OSError as error:
                read.add(error.errno or 0)
    finally:
        stop.set()
        racer.join()
    assert b"outside" not in read
    assert read <= {b"value", errno.ENOENT, errno.EXDEV, errno.ELOOP, errno.ENOTDIR, errno.EAGAIN}
