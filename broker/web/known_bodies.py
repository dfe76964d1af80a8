"""What the bodies of requests say, by their bytes: a fleet sends the same one again and again."""

from typing import Final

from broker.web.body import model_of
from broker.web.schemas import ResolveRequest

_MAX_BODIES: Final = 512
_MAX_BYTES: Final = 8192


class KnownBodies:
    """Read the body of a resolve request once for all who send it.

    Reading one costs more than deciding and answering it out of memory. Only what it says is remembered: who sends it
    and what it gets is asked at each request.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        """Begin with none."""
        self._known: dict[bytes, ResolveRequest] = {}

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._known)

    def read(self, raw: bytes) -> ResolveRequest:
        """Return what `raw` asks for. Raises: HttpRefusedError."""
        return self._known.get(raw) or model_of(raw, ResolveRequest)

    def remember(self, raw: bytes, asked: ResolveRequest) -> None:
        """Keep what `raw` says, in which every text is a reference: one that is none may be a misplaced secret."""
        if len(raw) > _MAX_BYTES:
            return
        if len(self._known) >= _MAX_BODIES:
            self._known.clear()
        self._known[raw] = asked
