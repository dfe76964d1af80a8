"""The memory limit of this process's control group, in the forms in which machines and containers show it."""

from pathlib import Path

import pytest

from broker.cache.control_group import MemoryUse, memory_use

MIB = 1024 * 1024
DOCKER = "3f0e2f5a6c7b"
POD = "kubepods/burstable/pod8d2c/4be1"
SERVICE = "system.slice/logflux-broker.service"
UNLIMITED = "9223372036854771712"


def version_1(limit: int | str, used: int, *, inactive: int = 0, own: int | str | None = None) -> dict[str, str]:
    """Return the files of a group; `own` is its own limit where an ancestor has the smaller one `limit`."""
    return {
        "memory.limit_in_bytes": f"{limit if own is None else own}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": (
            f"cache 0\nrss 1\ninactive_file 1\nhierarchical_memory_limit {limit}\ntotal_rss 2\n"
            f"total_inactive_file {inactive}\ntotal_active_file 7\n"
        ),
    }


def version_2(limit: int | str, used: int, *, inactive: int = 0, high: int | str = "max") -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.high": f"{high}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 1\nfile 2\ninactive_file {inactive}\nactive_file 7\n",
    }


class Machine:
    """A root with the files that a process sees of its control groups."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)

    def process(self, *, groups: str, mounts: str) -> None:
        (self.root / "proc/self/cgroup").write_text(groups)
        root_and_proc = (
            "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            "22 21 0:20 / /proc rw,nosuid - proc proc rw\n"
            "30 21 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n"
        )
        (self.root / "proc/self/mountinfo").write_text(root_and_proc + mounts)

    def group(self, place: str, files: dict[str, str]) -> None:
        directory = self.root / "sys/fs/cgroup" / place
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text)

    @property
    def use(self) -> MemoryUse | None:
        return memory_use(self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def v1_mount(top: str = "/", options: str = "rw,memory") -> str:
    return f"35 30 0:32 {top} /sys/fs/cgroup/memory ro,nosuid,nodev,relatime master:15 - cgroup cgroup {options}\n"


def v2_mount(top: str = "/", place: str = "/sys/fs/cgroup") -> str:
    return f"40 21 0:29 {top} {place} rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_docker_with_version_1(machine: Machine) -> None:
    machine.process(
        groups=f"12:cpuset:/docker/{DOCKER}\n4:memory:/docker/{DOCKER}\n1:name=systemd:/docker/{DOCKER}\n0::/system\n",
        mounts=v1_mount(f"/docker/{DOCKER}"),
    )
    machine.group("memory", version_1(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_docker_with_version_2_and_a_namespace_of_its_own(machine: Machine) -> None:
    machine.process(groups="0::/\n", mounts=v2_mount())
    machine.group("", version_2(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_docker_with_version_2_in_the_hosts_namespace(machine: Machine) -> None:
    scope = f"/system.slice/docker-{DOCKER}.scope"
    machine.process(groups=f"0::{scope}\n", mounts=v2_mount(scope))
    machine.group("", version_2(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_a_service_of_systemd_with_memory_max(machine: Machine) -> None:
    machine.process(groups=f"0::/{SERVICE}\n", mounts=v2_mount())
    machine.group("system.slice", version_2("max", 4000 * MIB))
    machine.group(SERVICE, version_2(512 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=512 * MIB, used=90 * MIB)


def test_memory_high_of_systemd_counts_too(machine: Machine) -> None:
    machine.process(groups=f"0::/{SERVICE}\n", mounts=v2_mount())
    machine.group(SERVICE, version_2(512 * MIB, 90 * MIB, high=384 * MIB))
    assert machine.use == MemoryUse(limit=384 * MIB, used=90 * MIB)
    machine.group(SERVICE, version_2("max", 90 * MIB, high=384 * MIB))
    assert machine.use == MemoryUse(limit=384 * MIB, used=90 * MIB)


def test_kubernetes_with_version_1(machine: Machine) -> None:
    machine.process(groups=f"11:memory:/{POD}\n10:cpu,cpuacct:/{POD}\n", mounts=v1_mount(f"/{POD}"))
    machine.group("memory", version_1(384 * MIB, 209 * MIB))
    assert machine.use == MemoryUse(limit=384 * MIB, used=209 * MIB)


def test_kubernetes_with_version_2(machine: Machine) -> None:
    machine.process(groups="0::/\n", mounts=v2_mount())
    machine.group("", version_2(384 * MIB, 209 * MIB))
    assert machine.use == MemoryUse(limit=384 * MIB, used=209 * MIB)


def test_hybrid_mounts_have_the_controller_in_version_1(machine: Machine) -> None:
    machine.process(
        groups=f"9:name=systemd:/{SERVICE}\n4:memory:/{SERVICE}\n0::/{SERVICE}\n",
        mounts=v1_mount() + v2_mount(place="/sys/fs/cgroup/unified"),
    )
    machine.group(f"unified/{SERVICE}", {"cgroup.procs": "7\n"})
    machine.group(f"memory/{SERVICE}", version_1(512 * MIB, 90 * MIB))
    machine.group("memory", version_1(UNLIMITED, 9000 * MIB))
    assert machine.use == MemoryUse(limit=512 * MIB, used=90 * MIB)


def test_a_controller_that_is_mounted_with_others_is_found(machine: Machine) -> None:
    machine.process(groups="3:cpu,memory:/jobs\n", mounts=v1_mount(options="rw,cpu,memory"))
    machine.group("memory/jobs", version_1(64 * MIB, 9 * MIB))
    assert machine.use == MemoryUse(limit=64 * MIB, used=9 * MIB)


@pytest.mark.parametrize(
    ("service", "slice_", "counts"),
    [
        (version_2("max", 90 * MIB), version_2(512 * MIB, 400 * MIB), MemoryUse(limit=512 * MIB, used=400 * MIB)),
        (version_2(900 * MIB, 90 * MIB), version_2(512 * MIB, 400 * MIB), MemoryUse(limit=512 * MIB, used=400 * MIB)),
        (version_2(128 * MIB, 90 * MIB), version_2(512 * MIB, 400 * MIB), MemoryUse(limit=128 * MIB, used=90 * MIB)),
    ],
    ids=["only-the-ancestors", "the-ancestors-is-smaller", "the-own-is-smaller"],
)
def test_the_smallest_limit_counts_and_the_use_is_of_the_group_that_has_it(
    machine: Machine, service: dict[str, str], slice_: dict[str, str], counts: MemoryUse
) -> None:
    machine.process(groups="0::/apps.slice/team/broker.service\n", mounts=v2_mount())
    machine.group("apps.slice/team/broker.service", service)
    machine.group("apps.slice/team", version_2("max", 300 * MIB))
    machine.group("apps.slice", slice_)
    assert machine.use == counts


def test_a_limit_of_an_ancestor_in_version_1_is_compared_with_what_that_ancestor_uses(machine: Machine) -> None:
    machine.process(groups="4:memory:/team/broker\n", mounts=v1_mount())
    machine.group("memory/team/broker", version_1(512 * MIB, 90 * MIB, own=UNLIMITED))
    machine.group("memory/team", version_1(512 * MIB, 400 * MIB))
    machine.group("memory", version_1(UNLIMITED, 9000 * MIB))
    assert machine.use == MemoryUse(limit=512 * MIB, used=400 * MIB)


def test_a_limit_of_an_ancestor_that_a_container_can_not_see_counts_in_version_1(machine: Machine) -> None:
    machine.process(groups=f"4:memory:/{POD}\n", mounts=v1_mount(f"/{POD}"))
    machine.group("memory", version_1(200 * MIB, 90 * MIB, own=UNLIMITED))
    assert machine.use == MemoryUse(limit=200 * MIB, used=90 * MIB)


def test_what_the_kernel_takes_back_first_is_not_in_use(machine: Machine) -> None:
    machine.process(groups="0::/\n", mounts=v2_mount())
    machine.group("", version_2(256 * MIB, 250 * MIB, inactive=160 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_what_the_kernel_takes_back_first_is_not_in_use_in_version_1(machine: Machine) -> None:
    machine.process(groups="4:memory:/\n", mounts=v1_mount())
    machine.group("memory", version_1(256 * MIB, 250 * MIB, inactive=160 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_a_process_outside_of_its_namespace_is_limited_by_nothing_that_is_mounted(machine: Machine) -> None:
    machine.process(groups="0::/../other\n", mounts=v2_mount())
    machine.group("", version_2(256 * MIB, 90 * MIB))
    assert machine.use is None


def test_a_mount_that_shows_more_than_the_namespace_leads_to_the_own_group(machine: Machine) -> None:
    machine.process(groups="0::/../other\n", mounts=v2_mount("/.."))
    machine.group("other", version_2(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


@pytest.mark.parametrize("own", ["/", "/broker"])
def test_a_mount_that_begins_at_an_ancestor_shows_that_ones_limit(machine: Machine, own: str) -> None:
    machine.process(groups=f"0::{own}\n", mounts=v2_mount("/../.."))
    machine.group("", version_2(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_a_tree_in_a_container_begins_at_its_own_group_whatever_the_path_says(machine: Machine) -> None:
    machine.process(groups="4:memory:/garden/good/2f57\n", mounts=v1_mount("/garden/bad/2f57"))
    machine.group("memory", version_1(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_a_group_that_the_mount_does_not_have_leaves_its_ancestors(machine: Machine) -> None:
    machine.process(groups=f"0::/docker/{DOCKER}\n", mounts=v2_mount())
    machine.group("", version_2(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


def test_a_mount_point_with_a_space_is_found(machine: Machine) -> None:
    machine.process(groups="0::/caf\u00e9\n", mounts=v2_mount(place=r"/sys/fs/cgroup/two\040words"))
    machine.group("two words/caf\u00e9", version_2(256 * MIB, 90 * MIB))
    assert machine.use == MemoryUse(limit=256 * MIB, used=90 * MIB)


@pytest.mark.parametrize("limit", ["max", "", "12 MB"])
def test_no_limit_is_no_limit(machine: Machine, limit: str) -> None:
    machine.process(groups="0::/\n", mounts=v2_mount())
    machine.group("", version_2(limit, 90 * MIB))
    assert machine.use is None


def test_the_number_that_means_no_limit_in_version_1_is_none(machine: Machine) -> None:
    machine.process(groups="4:memory:/\n", mounts=v1_mount())
    machine.group("memory", version_1(UNLIMITED, 90 * MIB))
    assert machine.use is None


def test_figures_that_can_not_be_read_limit_nothing(machine: Machine) -> None:
    machine.process(groups="0::/\nnonsense\n", mounts=v2_mount() + "nonsense\n1 2 - cgroup2\n")
    machine.group("", {"memory.max": f"{256 * MIB}\n"})
    assert machine.use is None


def test_a_machine_without_control_groups_limits_nothing(tmp_path: Path) -> None:
    assert memory_use(tmp_path) is None
