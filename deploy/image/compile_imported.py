"""Compile the modules that the broker imports; the build of the image runs this.

The slim Python images carry no bytecode of the standard library, and a broker on a read-only root can't
write any, so every start and every health check would compile it again. Compiling everything that is
installed would add twice the bytes that are ever read. The bytecode is bound to no time stamp, because a
build sets its own.
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
    for source in sorted(_sources()):
        py_compile.compile(
            str(source),
            cfile=str(root / Path(importlib.util.cache_from_source(str(source))).relative_to("/")),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _sources() -> set[Path]:
    ours = (Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib")))
    files = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    return {
        Path(file)
        for file in files
        if file and file.endswith(".py") and any(Path(file).is_relative_to(place) for place in ours)
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
