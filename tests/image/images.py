"""Build images with buildah in a storage of their own, and look inside them.

Chroot isolation and vfs storage need no privilege beyond those of the user who runs the build, no daemon and
no kernel module, so that the build is the same on a workstation and in a CI container.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.image.commands import run


@dataclass(frozen=True)
class Manifest:
    """What a registry would get: the digest by which a deployment names the image, and its size on the wire."""

    digest: str
    bytes_in_layers: tuple[int, ...]


class Image:
    """One image in a storage."""

    def __init__(self, storage: "Storage", name: str) -> None:
        """Look at the image `name`."""
        self.name = name
        self._storage = storage
        self._told = json.loads(storage.buildah("inspect", "--type", "image", name))

    @property
    def layers(self) -> list[str]:
        """Return the digest of each layer's contents."""
        return list(self._told["OCIv1"]["rootfs"]["diff_ids"])

    @property
    def configuration(self) -> dict[str, Any]:
        """Return what the image says about how to run it, in Docker's names."""
        return dict(self._told["Docker"]["config"])

    @property
    def history(self) -> str:
        """Return the steps that made the image, as they can be read from it."""
        return json.dumps(self._told["History"])

    @cached_property
    def root(self) -> Path:
        """Return the directory with the image's files."""
        container = self._storage.buildah("from", "--pull-never", self.name).strip()
        return Path(self._storage.buildah("mount", container).strip())

    @cached_property
    def files(self) -> dict[str, Path]:
        """Return every entry of the image by its name in it."""
        return {f"/{path.relative_to(self.root)}": path for path in self.root.rglob("*")}

    def added_to(self, base: "Image") -> dict[str, Path]:
        """Return the regular files that `base` does not have, or has with other contents."""

        def same(name: str, path: Path) -> bool:
            other = base.files.get(name)
            return other is not None and other.is_file() and other.read_bytes() == path.read_bytes()

        return {
            name: path
            for name, path in self.files.items()
            if path.is_file() and not path.is_symlink() and not same(name, path)
        }

    def pushed(self) -> Manifest:
        """Return the manifest that a push in the OCI format sends."""
        with tempfile.TemporaryDirectory(dir=self._storage.directory) as target:
            self._storage.buildah("push", "--format", "oci", self.name, f"dir:{target}")
            text = Path(target, "manifest.json").read_bytes()
            digest = run(["sha256sum", Path(target, "manifest.json")]).split()[0]
        return Manifest(f"sha256:{digest}", tuple(layer["size"] for layer in json.loads(text)["layers"]))


class Storage:
    """A storage of images below one directory."""

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which `remove` deletes."""
        self.directory = directory

    def buildah(self, *arguments: str | Path, seconds: float = 600, umask: int = 0o022) -> str:
        """Return what a command of buildah printed."""
        place = ["--root", self.directory / "root", "--runroot", self.directory / "run", "--storage-driver", "vfs"]
        return run(["buildah", *place, *arguments], seconds=seconds, umask=umask)

    def load_root(self, archive: Path, name: str) -> Image:
        """Make an image of one layer out of an archive, under a name that a Dockerfile asks for."""
        container = self.buildah("from", "scratch").strip()
        self.buildah("add", "--quiet", container, archive, "/")
        self.buildah("commit", "--quiet", "--rm", "--timestamp", "0", container, name)
        return Image(self, name)

    def pull(self, name: str) -> Image:
        """Fetch the image `name` from its registry."""
        self.buildah("pull", "--quiet", name)
        return Image(self, name)

    def build(
        self, context: Path, name: str, *, timestamp: int, labels: dict[str, str], volumes: Sequence[str], umask: int
    ) -> Image:
        """Build the Dockerfile of `context` as the documentation says, without a cache of earlier layers."""
        arguments = [word for key, value in labels.items() for word in ("--build-arg", f"{key}={value}")]
        self.buildah(
            "build",
            "--isolation=chroot",
            "--network=host",
            "--pull-never",
            "--format=docker",
            f"--timestamp={timestamp}",
            *arguments,
            *volumes,
            f"--tag={name}",
            context,
            umask=umask,
        )
        return Image(self, name)

    def remove(self) -> None:
        """Unmount and delete everything."""
        self.buildah("rm", "--all")
        shutil.rmtree(self.directory)
