"""What a good answer of the store becomes: fields, how large they are, and what may be told about them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from broker.errors import SecretUnusableError
from broker.logs import EventLogger
from broker.providers.vault.exchange.answers import bad_answer
from broker.providers.vault.reads.custom_metadata import read_facts
from broker.secret import Reading, SecretDocument
from broker.written_json import WrittenNumber

_LOG: Final = EventLogger("broker.providers.vault")
_MAX_DEPTH: Final = 100


def reading_of(
    document: Mapping[str, Any], fields: object, *, limit: int, metadata: dict[str, Any] | None = None
) -> Reading:
    """Return `fields` of an answer as a reading; `metadata` is that of KV version 2, `limit` in bytes.

    Raises:
        SecretUnusableError: They are larger than `limit`, or nested too deep.
        SourceUnavailableError: They are not what a store sends.

    """
    if not isinstance(fields, dict):
        raise bad_answer()
    size = _size(fields)
    # Its fields' names are no part of a value; in memory they count too.
    _check_size(size - sum(_bytes(name) for name in fields), limit)
    request = document.get("request_id")
    facts, unreadable = read_facts(metadata.get("custom_metadata") if metadata else None)
    if unreadable:
        # References are shown at debug alone. The store's audit log knows the request by its id.
        _LOG.warning("custom_metadata_unreadable", names=", ".join(unreadable), upstream_request=str(request))
    return Reading(
        document=SecretDocument.of_fields(fields, size=size),
        version=str(metadata["version"]) if metadata and "version" in metadata else None,
        not_after=_deletion_time(metadata),
        created_at=created_time(metadata),
        upstream_request=request if isinstance(request, str) and request else None,
        facts=facts,
    )


def reading_of_bytes(data: bytes, *, limit: int) -> Reading:
    """Return what an engine gives without fields: a certificate, say. Raises: SecretUnusableError, as `reading_of`."""
    _check_size(len(data), limit)
    return Reading(document=SecretDocument.of_bytes(data))


def seconds_of(told: object) -> float:
    """Return a time that an engine tells. Raises: SourceUnavailableError."""
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise bad_answer()
    return float(told)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        message = f"the secret is larger than {limit} bytes"
        raise SecretUnusableError(message)


def _size(fields: dict[str, Any]) -> int:
    """Return the bytes of all texts below `fields`, eight for anything else.

    Raises:
        SecretUnusableError: It is nested deeper than any secret has to be, and than JSON can be written safely.

    """
    size = 0
    level: list[Any] = [fields]
    for _ in range(_MAX_DEPTH):
        if not level:
            return size
        below: list[Any] = []
        for node in level:
            if isinstance(node, str):
                size += _bytes(node)
            elif isinstance(node, dict):
                below += (*node.keys(), *node.values())
            elif isinstance(node, list):
                below += node
            elif isinstance(node, WrittenNumber):
                size += len(node.text)
            else:
                size += 8
        level = below
    message = f"the secret is nested deeper than {_MAX_DEPTH} levels"
    raise SecretUnusableError(message)


def _bytes(text: str) -> int:
    # The encoded copy of an ASCII text is spared.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def created_time(metadata: dict[str, Any] | None) -> float | None:
    """Return when this version was written, wall seconds; None when that can't be read, for only a metric needs it."""
    try:
        return datetime.fromisoformat(str(metadata["created_time"])).timestamp() if metadata else None
    except (KeyError, ValueError, OverflowError):
        return None


def _deletion_time(metadata: dict[str, Any] | None) -> float | None:
    """Return when this version will be deleted by the store, wall seconds; None when it will not."""
    text = metadata.get("deletion_time") if metadata else None
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise bad_answer() from None
    if moment.tzinfo is None:
        raise bad_answer()
    return moment.timestamp()
