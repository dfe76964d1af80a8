"""How the C library hands memory back, in a process whose memory is limited."""

import ctypes
from typing import Final

# mallopt(3) of glibc. Above the 256 KiB that the event loop reads into at once, over and over.
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 512 * 1024


def return_large_blocks() -> None:
    """Let memory of large values go back to the kernel as soon as it is free.

    By itself glibc raises the size from which it does that to whatever has been freed once. Values of a MiB then lie
    between smaller things, and the holes that they leave count against the memory limit. Other C libraries than glibc
    don't have the switch, and don't need it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(ctypes.c_int(_M_MMAP_THRESHOLD), ctypes.c_int(_LARGE_BYTES))
