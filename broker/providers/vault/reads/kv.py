"""Reads of the KV engine, version 1 and 2: which version is meant, and which part of it is absent."""

from typing import Any, Final

from hvac.utils import format_url

from broker.errors import MissingPart, SecretMissingError, SecretUnusableError, UpstreamDeniedError
from broker.grammar import PREVIOUS
from broker.providers.vault.engines.mounts import Mount
from broker.providers.vault.exchange.answers import StoreAnswerError, WrongEngineError, bad_answer, read_error
from broker.providers.vault.own_token.questions import Questions
from broker.providers.vault.reads.documents import reading_of
from broker.reference import Source
from broker.secret import Reading

# Written by habit; the broker adds what the engine wants.
_API_PREFIXES: Final = ("data/", "metadata/")


class KvReads:
    """Ask the KV engines of one store."""

    def __init__(self, *, questions: Questions, limit: int) -> None:
        """Keep the collaborators; `limit` is the size of a secret in bytes."""
        self._questions = questions
        self._limit = limit

    async def read(self, mount: Mount, source: Source) -> Reading:
        """Return one version of one secret, with all its fields.

        Raises:
            WrongEngineError: The answer is not of a KV engine of that version.
            FetchError: As `Provider.fetch`.

        """
        if source.parameters:
            message = "the mount is a KV engine, which takes no parameters; only version and decode may follow the ?"
            raise SecretUnusableError(message)
        if mount.version == 1:
            if source.version is not None:
                message = "the mount is KV version 1, which keeps no versions; leave out ?version"
                raise SecretUnusableError(message)
            document = await self._ask(mount, format_url("/v1/{}/{}", mount.path, mount.below(source.path)), None)
            return reading_of(document, document.get("data"), limit=self._limit)
        below = mount.below(source.path)
        version = await self._previous(mount, below) if source.version == PREVIOUS else source.version
        document = await self._read_version(mount, below, version)
        envelope = document.get("data")
        if not isinstance(envelope, dict) or not isinstance(envelope.get("metadata"), dict):
            raise bad_answer()
        # A secret written as null is an empty one.
        fields = {} if envelope.get("data") is None else envelope["data"]
        return reading_of(document, fields, limit=self._limit, metadata=envelope["metadata"])

    async def _previous(self, mount: Mount, below: str) -> int:
        """Return the number of the version before the current one."""
        document = await self._read_version(mount, below, None)
        envelope = document.get("data")
        metadata = envelope.get("metadata") if isinstance(envelope, dict) else None
        version = metadata.get("version") if isinstance(metadata, dict) else None
        if not isinstance(version, int):
            raise bad_answer()
        if version <= 1:
            message = "the secret has one version, and none before it"
            raise SecretMissingError(message, part=MissingPart.VERSION)
        return version - 1

    async def _read_version(self, mount: Mount, below: str, version: int | None) -> dict[str, Any]:
        path = format_url("/v1/{}/data/{}", mount.path, below)
        try:
            return await self._ask(mount, path, version)
        except (SecretMissingError, UpstreamDeniedError) as error:
            if below.startswith(_API_PREFIXES) and not isinstance(error, WrongEngineError):
                prefix = below.partition("/")[0]
                message = f"the mount is KV version 2, where the broker adds {prefix}/ by itself; leave out {prefix}/"
                raise SecretMissingError(message, part=MissingPart.PATH, words=error.words) from None
            if getattr(error, "part", None) is not MissingPart.VERSION:
                raise
            refusal = error
        # The store says the same of an absent version and of an absent secret; only the current version tells.
        try:
            await self._ask(mount, path, None)
        except SecretMissingError as error:
            if error.part is MissingPart.PATH:
                raise
        raise refusal

    async def _ask(self, mount: Mount, path: str, version: int | None) -> dict[str, Any]:
        params = None if version is None else {"version": str(version)}
        try:
            return await self._questions.get(path, params, mount=mount.path)
        except StoreAnswerError as error:
            raise read_error(error, versioned=version is not None) from None
