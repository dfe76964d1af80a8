"""What every way to log in promises: it reads its credential, and trades it for a token."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from broker.errors import SourceUnavailableError
from broker.providers.own_variables import OwnVariables
from broker.providers.vault.places import Located, Variable, read_place
from broker.secret import Encoding, SecretValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What was read from the files of one way to log in, in its own order; `digest` tells whether it has changed."""

    parts: tuple[SecretValue, ...]
    digest: bytes

    @classmethod
    def of(cls, *texts: str) -> "Credential":
        """Return `texts` as a credential."""
        return cls(
            parts=tuple(SecretValue(text.encode(), encoding=Encoding.TEXT) for text in texts),
            digest=hashlib.sha256("\0".join(texts).encode()).digest(),
        )

    def reveal(self) -> tuple[str, ...]:
        """Return the texts, to be sent and kept nowhere."""
        return tuple(part.reveal().decode() for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What the store says about the token that it gave: its life in seconds (0 has no end), and its limits."""

    seconds: float
    renewable: bool
    uses: int

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> "Grant":
        """Return what stands in the answer of a login.

        Raises:
            KeyError: It is no such answer.
            TypeError: As above.
            ValueError: As above.

        """
        auth = answer["auth"]
        seconds = float(auth["lease_duration"])
        renewable = bool(auth.get("renewable")) and seconds > 0
        return cls(seconds=seconds, renewable=renewable, uses=int(auth.get("num_uses") or 0))


class CredentialSpentError(SourceUnavailableError):
    """The credential can't be used again, whatever is tried; only a new one helps."""


class Refusals(Enum):
    """What the store's refusal of a credential means for another try with it."""

    # The store counts them, and locks out whom they are about.
    COUNTED = "counted"
    # Once refused, it will never be taken.
    FINAL = "final"
    # It is taken as soon as its role is put right in the store.
    OPEN = "open"


class LoginMethod(Protocol):
    """One way to log in."""

    # Whether a new credential in the file replaces a token that is good: true where the token is the credential.
    follows_file: bool
    refusals: Refusals

    def read(self) -> Credential:
        """Return what the files hold now. Blocks.

        Raises:
            SourceUnavailableError: A file can't be used; names the setting, not the path.

        """
        ...

    async def log_in(self, client: Any, credential: Credential) -> Grant:  # noqa: ANN401  hvac has no types.
        """Trade `credential` for a token, which `client` holds afterwards. Sends it once at most.

        Raises:
            StoreAnswerError: The store refuses it, or has a fault.
            CredentialSpentError: It was used before, or may have been; it must never be sent again.
            SourceUnavailableError: There is no answer.
            SecretUnusableError: The answer is too large.
            AttributeError: The answer is not the store's; so are KeyError, TypeError and ValueError.

        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialReader:
    """Read the credentials of one way to log in; everything here blocks."""

    section: str
    own: OwnVariables

    def secret(self, credential: Located) -> str:
        """Return the one word at a place that nobody else may read.

        Raises:
            SourceUnavailableError: There is none, or others may read it; names the setting, not the path.

        """
        setting = self._name(credential.setting)
        return _word(read_place(credential.place, setting=setting, own=self.own), setting)

    def name(self, credential: Located) -> str:
        """Return the one word of a variable, or of a file that anybody may read.

        Raises:
            SourceUnavailableError: There is none; names the setting, not the path.

        """
        if isinstance(credential.place, Variable):
            return self.secret(credential)
        setting = self._name(credential.setting)
        try:
            return _word(credential.place.read_bytes(), setting)
        except OSError as error:
            message = f"{setting}: {error.strerror}"
            raise SourceUnavailableError(message) from None

    def _name(self, setting: str) -> str:
        return ".".join(filter(None, ("providers.vault.auth", self.section, setting)))


def _word(text: bytes, setting: str) -> str:
    try:
        word = text.decode("ascii").strip()
    except UnicodeDecodeError:
        word = ""
    if not word.isprintable() or not word or " " in word:
        message = f"{setting}: holds no credential in one line"
        raise SourceUnavailableError(message)
    return word
