"""Compile the modules of the standard library that the broker imports; the build of the image runs this.

The slim Python images carry no bytecode of the standard library, and a broker on a read-only root can't
write any, so every start and every health check would compile it again. Compiling all of it would add
twice the bytes that are ever read. The bytecode is bound to no time stamp, because a build sets its own.
"""

import importlib
import importlib.util
import py_compile
import sys
import sysconfig
from pathlib import Path

from broker.verbs import VERBS


def main(root: Path) -> None:
    """Write the bytecode below `root`, at the places where the interpreter of the image looks for it."""
    for verb in VERBS:
        importlib.import_module(verb.module)
    library = Path(sysconfig.get_path("stdlib"))
    for source in sorted(_sources(library)):
        py_compile.compile(
            str(source),
            cfile=str(root / Path(importlib.util.cache_from_source(str(source))).relative_to("/")),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _sources(library: Path) -> set[Path]:
    files = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    return {Path(file) for file in files if file and file.endswith(".py") and Path(file).is_relative_to(library)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
