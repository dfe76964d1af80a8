"""The body of a large answer, sent in pieces: only as fast as the agent takes them do they go into buffers."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NoReturn

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

# Of one write: TLS turns each into as many encrypted bytes, and both are there until they are taken.
_PIECE: Final = 64 * 1024


class LargeBody(Payload):
    """Bytes that are never joined, and never written ahead of the agent by more than a piece.

    aiohttp writes bytes at once, and TLS encrypts them at once: whatever does not fit into the kernel then lies in
    buffers that know no limit, twice as long as the answer itself.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        """Send `parts` one after the other."""
        super().__init__(parts, content_type="application/json")
        self._parts = parts
        self._size = sum(map(len, parts))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> NoReturn:
        """Refuse: values leave through the connection alone."""
        del encoding, errors
        message = "a body with values is no text to look at"
        raise TypeError(message)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write everything.

        Raises:
            ConnectionError: The agent has gone.

        """
        parts, self._parts = self._parts, ()
        for piece in _pieces(parts):
            await writer.write(piece)
            await writer.drain()


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what `parts` are together in pieces of one size, however small or large a part is."""
    piece = bytearray()
    for part in parts:
        start = 0
        while start < len(part):
            end = start + _PIECE - len(piece)
            piece += memoryview(part)[start:end]
            start = end
            if len(piece) == _PIECE:
                yield bytes(piece)
                piece.clear()
    yield bytes(piece)
