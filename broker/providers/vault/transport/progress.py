"""How far the store's log had come when it answered last, so that no node of a cluster answers from before that."""

from dataclasses import replace
from typing import Final

from broker.providers.vault.exchange.request import StoreRequest, StoreResponse

# What the store tells of its log is opaque; OpenBao's is below 200 characters.
_MAX_CHARACTERS: Final = 1024
_HEADER: Final = "X-Vault-Index"
# A node that is behind passes the request on to the leader; without it, it would answer 429 or 412.
_PASS_ON: Final = {"X-Vault-Inconsistent": "forward-active-node"}


class SeenProgress:
    """Let each request ask for a state of the store that is no older than the last answer.

    A standby answers reads by itself, from a moment ago: to it, a secret that its leader has just shown does not
    exist yet. The state of another cluster is ignored by the store, and a leader answers whatever it is asked for.
    """

    def __init__(self) -> None:
        """Start without an answer."""
        self._index = ""

    @property
    def is_told(self) -> bool:
        """Tell whether the store has told a state."""
        return bool(self._index)

    def require(self, request: StoreRequest) -> StoreRequest:
        """Return `request`, to be answered from no older a state than was seen."""
        if not self._index or request.operation == "health":
            return request
        return replace(request, headers={**request.headers, _HEADER: self._index, **_PASS_ON})

    def saw(self, request: StoreRequest, response: StoreResponse) -> None:
        """Note the state that `response` was made from, when it tells; `request` is what `require` returned.

        An answer to a request that had asked for less may be from an older state than is known by now. States can't be
        compared, so it counts only when it was asked for no less than that, or comes from the leader's own write.
        """
        is_as_new = request.headers.get(_HEADER, "") == self._index or request.operation == "renew"
        if is_as_new and 0 < len(response.index) <= _MAX_CHARACTERS:
            self._index = response.index
