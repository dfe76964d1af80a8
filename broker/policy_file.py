"""The policy in force, kept equal to its file."""

from collections.abc import Sequence
from pathlib import Path

from broker.clock import Clock
from broker.errors import DocumentInvalidError, PolicyInvalidError
from broker.policy.current import CurrentPolicy
from broker.policy.engine import Policy, compile_policy
from broker.reload import Accepted, PartName, Refused
from broker.series.reloads import ReloadSeries


def load_policy(file: Path) -> Policy:
    """Return the compiled policy of `file`.

    Raises:
        PolicyInvalidError: The file can't be read or can't be used.

    """
    try:
        text = file.read_bytes()
    except OSError as error:
        message = f"{file}: {error.strerror}; name a readable policy file"
        raise PolicyInvalidError(message) from None
    try:
        return compile_policy(text)
    except DocumentInvalidError as error:
        message = f"{file}: {error.detail}"
        raise PolicyInvalidError(message, line=error.line, column=error.column) from None


class PolicyFile:
    """Read one file, and put what it says in force."""

    def __init__(self, *, file: Path, current: CurrentPolicy, metrics: ReloadSeries, clock: Clock) -> None:
        """Keep `current`, which holds the policy of `file` already."""
        self._file = file
        self._current = current
        self._metrics = metrics
        self._clock = clock
        metrics.policy_loaded(now=clock.now())

    @property
    def name(self) -> PartName:
        """Return the policy's."""
        return PartName.POLICY

    @property
    def watched(self) -> Sequence[Path]:
        """Return the file."""
        return [self._file]

    def read(self) -> Sequence[Accepted | Refused]:
        """Return the policy of the file as it stands, ready to be put in force. Blocks."""
        before = self._current.current.digest
        try:
            policy = load_policy(self._file)
        except PolicyInvalidError as error:
            where = f"line {error.line}, column {error.column}: " if error.line else ""
            return [Refused(part=PartName.POLICY, code=error.code, detail=where + error.detail, in_force=before)]

        def apply() -> None:
            self._current.replace(policy)
            self._metrics.policy_loaded(now=self._clock.now())

        return [Accepted(part=PartName.POLICY, apply=apply, before=before, after=policy.digest)]
