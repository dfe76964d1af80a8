"""What a source said instead of a value, for the record alone, in a form that can hold none. Pure.

The text of an error is no secret, but it may echo one: a request's parameters, what a database said. No rule tells the
two apart by looking for the secret. So a word is kept when it is one that errors are made of, out of the list below,
and anything else becomes an ellipsis: names, numbers, paths, whatever nobody has thought of
(docs/adr/0018-the-stores-words.md).
"""

import re
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Final

_ELLIPSIS: Final = "\u2026"
_MAX_TEXTS: Final = 4
_MAX_CHARACTERS: Final = 2048
_MAX_PIECES: Final = 48
# Around a word without being part of it; one of the latter is kept behind it.
_AROUND: Final = "\"'`*()[]{}<>,.:;!?"
_BEHIND: Final = frozenset(",.:;")
# What Vault and OpenBao put before the errors of several parts, whose number is one.
_COUNT: Final = re.compile(r"\s*[0-9]{1,3} errors? occurred:")
_REQUEST: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# Words of a language and of its machines, and none that is anybody's name, path, number or choice.
_VOCABULARY: Final = """
a about above absolute access accessor account accounts action active address addresses administrator aes after again
algorithm all allow allowed allowlist already alternative among an and any api appropriate are argument arn as assume
assumed at attempt attempted auth authenticated authentication authority authorization authorized backend bad base64
batch be because been before being below between big bits block bound broken busy but by bytes ca call can can't
canceled canceling cancelled cannot capabilities capability cas certificate certificates chain character characters
check check-and-set cidr cidrs cipher ciphertext claim claims client client's close closed cluster code common
common_name community config configuration configured conflict connect connection connections constraint context
control converting could couldn't create created creating credential credential's credentials csr current data
database dead decode decoding decrypt default deleted denied denylist dial did didn't disabled disallowed dns does
doesn't domain domains down duplicate duration ecdsa ed25519 eku email empty enabled encoded encoding encrypt
encrypted encryption end-entity endpoint endpoints engine engine's engines ensure enterprise entity entry eof error
errors exceed exceeded exceeding exceeds exhausted exist exists expected expiration expired expires explicit extension
failed failure feature fetch field file for forbidden format forward forwarded forwarding found from function generate
generated generating get given grant granted grants greater group handler hard hash have header hit host hour id
identity if illegal in incorrect index initialized input instance instead insufficient int internal internal_error
interrupted invalid invalid_client invalid_grant invalid_request ip is issue issued issuer issuing it its itself json
jwt key keys kind known label lack lacking lacks large last later leader leaf lease leases least left length less
license lifetime limit limited list local locked log logged login long longer lookup mac malformed mapped mapping
match matched matching max max_ttl maximum may mechanism message metadata method might min minimum mismatch missing
mode more most mount mounted must name names namespace namespaces nearest need needed needs neither network nil no
no-such node non-existent nonce none nonexistent nor not not-found not_after not_before nothing object of ok older on
one only open operation operations option options or organization orphan out outside over overloaded owner padding
parameter parameters parent parse parsing part password path pathname paths pem performance period periodic permission
permissions permitted pki plaintext please plugin policies policy pool pq precondition prefix preflight present
preventing previous primary private private_key privilege privileges process prohibited property provide provided
provider public public_key query quorum quota range rate rate-limit reached read read-only reading reason received
record reference refuse refused region register registered rejected relation relative remaining remote remove removed
renew renewable replica request requested required requires reserved reset resource response response-wrapping
restricted result resume retrieve retry returned returning revoke revoked right rights role role's roles root rotate
rotated rotation route rpc rsa run san sans schedule schema sealed secondary secret secrets see segment serial
serial_number server service set sets short shorter should shut shutting sign signature signed signed-by signing
single-use size slash sleeping slots small soft source spent ssh ssl standby start starting state statement statements
static storage store string subdomains subject subset such superuser supplied support supported syntax system table
tcp terminated terminating than that the their there this throttled time timed timeout tls to token tokens too
trailing transaction transit trust trusted try ttl type types unable unauthenticated unauthorized unavailable under
unexpected unique unknown unless unreachable unrecognized unreserved unsealed unset unsupported unsupported_operation
until untrusted unverified unwrapped up update uri usage use used user username uses using valid validate validating
validation value values verified verify verifying version versioned versions via violates was were when which while
wildcard will with within without would wrapping write writing wrong x509 you your
"""
_WORDS: Final = frozenset(_VOCABULARY.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceWords:
    """One refusal in a source's own words.

    Attributes:
        asked: The broker's own words for what it asked: a method and a path, without parameters.
        status: The status of the answer.
        texts: The errors in the answer, as they came; they are not kept.
        request: The source's own id of the request, empty when it gave none, or none that is a UUID.
        said: Status and words. Whatever is not a word of errors is an ellipsis here.

    """

    asked: str
    status: int
    texts: InitVar[Sequence[str]]
    request: str = ""
    said: str = field(init=False)

    def __post_init__(self, texts: Sequence[str]) -> None:
        """Keep of `texts` and `request` what can hold no value."""
        words = "; ".join(plain for text in texts[:_MAX_TEXTS] if (plain := plain_words(text)))
        object.__setattr__(self, "said", f"{self.status} {words}".rstrip())
        if not _REQUEST.fullmatch(self.request):
            object.__setattr__(self, "request", "")


def plain_words(text: str) -> str:
    """Return `text` on one line, in words of errors alone; whatever else it has is an ellipsis."""
    kept: list[str] = []
    pieces = _COUNT.sub("", text[:_MAX_CHARACTERS], count=1).split()
    for piece in pieces[:_MAX_PIECES]:
        word = piece.strip(_AROUND).lower()
        if word in _WORDS:
            kept.append(word + piece[-1] if piece[-1] in _BEHIND else word)
        elif word and kept[-1:] != [_ELLIPSIS]:
            kept.append(_ELLIPSIS)
    if len(pieces) > _MAX_PIECES and kept[-1:] != [_ELLIPSIS]:
        kept.append(_ELLIPSIS)
    return " ".join(kept)
