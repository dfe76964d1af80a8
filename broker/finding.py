"""What is wrong with a setting or with a file that it names: a stable code, where, why, and what to do. Pure.

`broker check-config` prints findings; the start and the reload raise the first that is an error. So the
three of them never differ in what they accept.
"""

from dataclasses import dataclass
from enum import StrEnum

from broker.errors import SettingsInvalidError


class Severity(StrEnum):
    """Whether the broker could not do its work, or could for now."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        code: A stable slug, listed in `docs/check-config.md`.
        where: The setting, file or address that it is about.
        why: What is wrong there.
        fix: What to do about it.
        severity: Whether it keeps the broker from its work.

    """

    code: str
    where: str
    why: str
    fix: str
    severity: Severity = Severity.ERROR

    @property
    def text(self) -> str:
        """Return it as one sentence, without its code."""
        return f"{self.where}: {self.why}; {self.fix}"


class FoundError(SettingsInvalidError):
    """Something that the settings name can't be used; `finding` says it in parts."""

    def __init__(self, finding: Finding) -> None:
        """Keep the finding, whose sentence is the detail."""
        super().__init__(finding.text)
        self.finding = finding


def found(where: object, code: str, why: str, fix: str) -> FoundError:
    """Return the error of one finding about `where`."""
    return FoundError(Finding(code=code, where=str(where), why=why, fix=fix))
