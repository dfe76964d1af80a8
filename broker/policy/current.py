"""The policy in force."""

from broker.policy.engine import Policy


class CurrentPolicy:
    """Hold the one policy that decisions are made by; a reload replaces it whole."""

    def __init__(self, policy: Policy) -> None:
        """Begin with `policy`."""
        self._policy = policy

    @property
    def current(self) -> Policy:
        """Return the policy in force; take it once for each request, so that one request sees one policy."""
        return self._policy

    def replace(self, policy: Policy) -> None:
        """Put `policy` in force."""
        self._policy = policy
