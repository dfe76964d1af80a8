"""What a read means to each secrets engine: which request it is, and whether it makes something new."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from hvac.utils import format_url

from broker.errors import FetchError, MissingPart, SecretMissingError, SecretUnusableError, SourceUnavailableError
from broker.providers.vault.engines.mounts import Mount
from broker.providers.vault.exchange.answers import (
    BAD_REQUEST,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    SERVER_FAULT,
    StoreAnswerError,
    is_outage,
    read_error,
    unavailable,
)
from broker.reference import Source

# Engine and first segment of what is below its mount; every other path of these engines is a plain read.
_MINTS: Final = frozenset(
    {
        ("database", "creds"),
        ("pki", "issue"),
        ("pki", "sign"),
        ("pki", "sign-verbatim"),
        ("rabbitmq", "creds"),
        ("ssh", "creds"),
        ("ssh", "issue"),
        ("ssh", "sign"),
        ("totp", "code"),
    }
)
_COMPUTES: Final = frozenset({"sign", "hmac", "verify", "decrypt"})
_PLAIN: Final = frozenset({"cubbyhole", "database", "pki", "rabbitmq", "ssh", "totp", "transit"})
_POSTED: Final = frozenset({"pki", "ssh"})
# In what the engines answer some reads instead of in JSON; tried against a real store.
_RAW: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "pki": frozenset(
            {
                "application/pkix-cert",
                "application/pkix-crl",
                "application/pem-certificate-chain",
                "application/x-pem-file",
            }
        ),
        "ssh": frozenset({"text/plain"}),
    }
)
# What the engines say, with 400, of something that is not there; tried against a real store.
_ABSENT: Final = ("unknown role", "key not found", "role not found")
_IGNORED: Final = "unrecognized parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCall:
    """One request to an engine, whose `path` is percent-encoded.

    `mints` says that each such request makes something new; `raw_types` are those of `StoreRequest`.
    """

    mount: str
    path: str
    parameters: Mapping[str, str]
    posted: bool
    mints: bool
    raw_types: frozenset[str]


def call_of(mount: Mount, source: Source) -> EngineCall:
    """Return the request that reads `source`, which is below `mount` and no KV secret.

    Raises:
        SecretUnusableError: The engine has no such thing, or none that may travel in a reference.

    """
    if source.version is not None:
        message = f"the mount holds a {mount.kind} engine, which keeps no versions; leave out ?version"
        raise SecretUnusableError(message)
    below = mount.below(source.path)
    action = below.partition("/")[0]
    parameters = dict(source.parameters)
    if mount.kind == "transit" and action in {"encrypt", "datakey", "rewrap"}:
        message = f"a reference can't stand for transit/{action}: what it names is written down in policies and trails"
        raise SecretUnusableError(message)
    computes = mount.kind == "transit" and action in _COMPUTES
    mints = (mount.kind, action) in _MINTS or mount.kind not in _PLAIN
    posted = computes or (mints and mount.kind in _POSTED)
    if parameters and not (posted or mints):
        message = f"this path of a {mount.kind} engine takes no parameters; leave out what follows the ?"
        raise SecretUnusableError(message)
    path = format_url("/v1/{}/{}", mount.path, below)
    raw_types = frozenset() if mints else _RAW.get(mount.kind, frozenset())
    return EngineCall(
        mount=mount.path, path=path, parameters=parameters, posted=posted, mints=mints, raw_types=raw_types
    )


def engine_error(error: StoreAnswerError, mount: Mount) -> FetchError:
    """Return what the error answer of an engine means."""
    if error.status == BAD_REQUEST and any(error.says(text) for text in _ABSENT):
        message = f"the {mount.kind} engine has no such role or key"
        return SecretMissingError(message, part=MissingPart.PATH, words=error.words)
    if error.status == BAD_REQUEST and not (error.says("resume service") or error.says("one use left")):
        message = (
            f"the {mount.kind} engine refuses what the reference asks for: look at its parameters and at its role there"
        )
        return SecretUnusableError(message, words=error.words)
    if error.status == METHOD_NOT_ALLOWED:
        message = f"this path of a {mount.kind} engine answers no read"
        return SecretUnusableError(message, words=error.words)
    if error.status == SERVER_FAULT and not is_outage(error.status, error.document) and mount.kind == "database":
        message = "the store can't make a credential: the database behind it may be away, or its connection is wrong"
        return SourceUnavailableError(message, words=error.words)
    return read_error(error, versioned=False) if error.status == NOT_FOUND else unavailable(error)


def check_heeded(document: Mapping[str, Any]) -> None:
    """Refuse an answer whose engine has ignored a parameter.

    Raises:
        SecretUnusableError: It has.

    """
    warnings = document.get("warnings")
    if isinstance(warnings, list) and any(_IGNORED in str(warning) for warning in warnings):
        message = "the engine does not know a parameter of the reference; look at what follows its ?"
        raise SecretUnusableError(message)
