"""Who a policy speaks about: entries that match certificates' names, and which entry a peer is."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from broker.identity import IdentityKind, PeerIdentity
from broker.policy.trie import SegmentTrie
from broker.segments import ANY, ONE

_SPIFFE_SCHEME: Final = "spiffe://"
_MAX_SPIFFE: Final = 2048
_MAX_ANY: Final = 4
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}", re.ASCII)
_SPIFFE_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_DNS: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII
)
_FINGERPRINT: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One entry under `identities`: its name there, what it matches, where it belongs."""

    name: str
    kind: IdentityKind
    pattern: str
    environment: str | None

    @property
    def is_exact(self) -> bool:
        """Tell whether it matches one name only."""
        return ONE not in self.pattern


class Ambiguous:
    """The answer when several entries match and none is exact, so that nobody knows which is meant."""


AMBIGUOUS: Final = Ambiguous()


class SubjectIndex:
    """Find the entry of a peer in as many steps as its name has segments."""

    def __init__(self, subjects: Iterable[Subject]) -> None:
        """Index `subjects`, whose patterns differ from each other."""
        self._exact: dict[tuple[IdentityKind, str], Subject] = {}
        self._wildcards: SegmentTrie[Subject] = SegmentTrie()
        for subject in subjects:
            if subject.is_exact:
                self._exact[subject.kind, subject.pattern] = subject
            else:
                self._wildcards.put(_segments(subject.pattern), subject)

    def find(self, identity: PeerIdentity) -> Subject | Ambiguous | None:
        """Return the one entry of `identity`; an exact one goes before wildcards."""
        exact = self._exact.get((identity.kind, identity.name))
        if exact is not None or identity.kind is not IdentityKind.SPIFFE:
            return exact
        found = list(self._wildcards.find(_segments(identity.name)))
        if len(found) > 1:
            return AMBIGUOUS
        return found[0] if found else None


def parse_spiffe(text: str) -> str:
    """Return `text`, a SPIFFE id whose path segments may be `*` and `**`.

    Raises:
        ValueError: It is none.

    """
    domain, *segments = _segments(text) if text.startswith(_SPIFFE_SCHEME) else ("",)
    if _TRUST_DOMAIN.fullmatch(domain) is None or not segments or len(text) > _MAX_SPIFFE:
        message = "no SPIFFE id; write spiffe://trust-domain/path, the trust domain in lower case and without wildcards"
        raise ValueError(message)
    if not all(map(_is_spiffe_segment, segments)):
        message = "a segment that no SPIFFE id has; use letters, digits, '.', '_', '-', or a whole segment * or **"
        raise ValueError(message)
    if segments.count(ANY) > _MAX_ANY:
        message = f"more than {_MAX_ANY} times **; be more precise"
        raise ValueError(message)
    return text


def parse_dns(text: str) -> str:
    """Return `text`, a DNS name in lower case.

    Raises:
        ValueError: It is none.

    """
    if _DNS.fullmatch(text) is None:
        message = "no DNS name; write it in lower case, without wildcards and without a dot at the end"
        raise ValueError(message)
    return text


def parse_fingerprint(text: str) -> str:
    """Return `text`, the SHA-256 of a certificate.

    Raises:
        ValueError: It is none.

    """
    if _FINGERPRINT.fullmatch(text) is None:
        message = (
            "no fingerprint; write sha256: and the 64 hexadecimal digits of the certificate's SHA-256, in lower case"
        )
        raise ValueError(message)
    return text


def _segments(name: str) -> tuple[str, ...]:
    return tuple(name.removeprefix(_SPIFFE_SCHEME).split("/"))


def _is_spiffe_segment(segment: str) -> bool:
    return segment in (ONE, ANY) or (segment not in (".", "..") and _SPIFFE_SEGMENT.fullmatch(segment) is not None)
