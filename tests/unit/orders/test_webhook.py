"""Signed webhooks: what is taken, and each way in which one is refused."""

import base64
import hmac
from pathlib import Path

import pytest

from broker.errors import WebhookRefusedError
from broker.orders.webhook import Message, WebhookVerifier, parse_key, read_headers
from broker.orders.webhook_keys import WebhookKeys, read_webhook_keys
from broker.reload import Accepted, Refused
from broker.secret import Encoding, SecretValue
from tests.vaults import private

NOW = 1_800_000_000
OLD, NEW = b"o" * 32, b"n" * 32
BODY = b'{"action":"refresh","everything":true}'


def sign(key: bytes, *, identifier: str = "msg_1", at: int = NOW, body: bytes = BODY) -> str:
    digest = hmac.digest(key, f"{identifier}.{at}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(digest).decode()


def lines(*signatures: str, identifier: str = "msg_1", at: object = NOW) -> dict[str, list[str]]:
    return {
        "webhook-id": [identifier],
        "webhook-timestamp": [str(at)],
        "webhook-signature": [" ".join(signatures)],
    }


def secret(key: bytes) -> SecretValue:
    return SecretValue(key, encoding=Encoding.BASE64)


@pytest.fixture
def verifier() -> WebhookVerifier:
    return WebhookVerifier(keys={"old": secret(OLD), "new": secret(NEW)}, tolerance_seconds=300)


def message(*signatures: str, at: int = NOW) -> Message:
    return read_headers(lines(*signatures, at=at))


def reason_of(verifier: WebhookVerifier, unverified: Message, *, body: bytes = BODY, now: float = NOW) -> str:
    with pytest.raises(WebhookRefusedError) as caught:
        verifier.verify(unverified, body, now=now)
    return caught.value.reason


def test_the_example_of_the_specification_is_taken() -> None:
    key = parse_key(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = {
        "webhook-id": ["msg_p5jXN8AQM9LWM0D4loKWxJek"],
        "webhook-timestamp": ["1614265330"],
        "webhook-signature": ["v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="],
    }
    verifier = WebhookVerifier(keys={"k": key}, tolerance_seconds=300)
    assert verifier.verify(read_headers(headers), b'{"test": 2432232314}', now=1614265330) == "k"


@pytest.mark.parametrize(("key", "name"), [(OLD, "old"), (NEW, "new")])
def test_each_of_several_keys_counts(verifier: WebhookVerifier, key: bytes, name: str) -> None:
    assert verifier.verify(message(sign(key)), BODY, now=NOW) == name


def test_one_good_signature_of_several_is_enough(verifier: WebhookVerifier) -> None:
    assert verifier.verify(message("v2,xx", sign(b"x" * 32), sign(NEW)), BODY, now=NOW) == "new"


def test_another_key_a_changed_body_and_a_changed_id_are_refused(verifier: WebhookVerifier) -> None:
    assert reason_of(verifier, message(sign(b"x" * 32))) == "signature"
    assert reason_of(verifier, message(sign(NEW)), body=BODY + b" ") == "signature"
    assert reason_of(verifier, read_headers(lines(sign(NEW), identifier="msg_2"))) == "signature"
    assert reason_of(verifier, message(sign(NEW), at=NOW + 1)) == "signature"
    assert reason_of(verifier, message("v1,é")) == "signature"


@pytest.mark.parametrize("off", [-301, 301])
def test_a_time_outside_the_window_is_refused(verifier: WebhookVerifier, off: int) -> None:
    assert reason_of(verifier, message(sign(NEW, at=NOW + off), at=NOW + off)) == "timestamp"


def test_a_message_is_taken_once_and_again_after_it_had_no_effect(verifier: WebhookVerifier) -> None:
    unverified = message(sign(NEW))
    verifier.verify(unverified, BODY, now=NOW)
    verifier.take(unverified)
    assert reason_of(verifier, unverified) == "replayed"
    verifier.give_back(unverified)
    assert verifier.verify(unverified, BODY, now=NOW) == "new"


def test_taken_ids_are_forgotten_when_their_window_ends(verifier: WebhookVerifier) -> None:
    for number in range(100):
        verifier.take(read_headers(lines(sign(NEW), identifier=f"msg_{number}")))
    later = NOW + 301
    fresh = message(sign(NEW, at=later), at=later)
    assert verifier.verify(fresh, BODY, now=later) == "new"
    assert verifier._taken == {}


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("change", ["missing", "empty", "twice"])
def test_each_header_stands_once(name: str, change: str) -> None:
    headers = lines(sign(NEW))
    headers[name] = {"missing": [], "empty": [""], "twice": headers[name] * 2}[change]
    with pytest.raises(WebhookRefusedError, match=name) as caught:
        read_headers(headers)
    assert caught.value.reason == "unsigned"


@pytest.mark.parametrize(
    "headers",
    [
        lines(sign(NEW), identifier="a.b"),
        lines(sign(NEW), identifier="x" * 129),
        lines(sign(NEW), at="soon"),
        lines(sign(NEW), at="-1"),
        lines(sign(NEW), at="1" * 13),
        lines(*[sign(NEW)] * 9),
    ],
    ids=["dot", "long", "word", "negative", "far", "nine signatures"],
)
def test_malformed_headers_are_refused(headers: dict[str, list[str]]) -> None:
    with pytest.raises(WebhookRefusedError):
        read_headers(headers)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"whsec_",
        base64.b64encode(NEW),
        b"whsec_" + base64.b64encode(b"x" * 23),
        b"whsec_" + base64.b64encode(b"x" * 65),
        b"whsec_" + base64.b64encode(NEW)[:-1],
        b"whsec_\xff",
    ],
)
def test_a_file_without_a_key_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="whsec_ and 24 to 64 random bytes"):
        parse_key(text)


def test_a_key_may_have_a_line_end() -> None:
    assert parse_key(b"whsec_" + base64.b64encode(NEW) + b"\n") == secret(NEW)


def test_a_key_is_in_no_repr(verifier: WebhookVerifier) -> None:
    shown = f"{parse_key(b'whsec_' + base64.b64encode(NEW))!r}{verifier!r}{vars(verifier)!r}"
    assert NEW.decode() not in shown
    assert base64.b64encode(NEW).decode() not in shown


# Keys in files.


def key_file(directory: Path, key: bytes) -> Path:
    return private(directory / "hook.key", f"whsec_{base64.b64encode(key).decode()}")


def test_a_key_that_was_replaced_in_its_file_counts_and_the_old_one_no_more(tmp_path: Path) -> None:
    file = key_file(tmp_path, OLD)
    verifier = WebhookVerifier(keys=read_webhook_keys([file]), tolerance_seconds=300)
    part = WebhookKeys(files=[file], verifier=verifier)
    taken = message(sign(OLD))
    assert verifier.verify(taken, BODY, now=NOW) == "hook.key"
    verifier.take(taken)
    key_file(tmp_path, NEW)
    [accepted] = part.read()
    assert isinstance(accepted, Accepted)
    assert reason_of(verifier, message(sign(NEW))) == "signature", "reading alone puts nothing in force"
    accepted.apply()
    assert reason_of(verifier, message(sign(NEW))) == "replayed", "what was taken stays taken"
    assert verifier.verify(read_headers(lines(sign(NEW, identifier="msg_2"), identifier="msg_2")), BODY, now=NOW)
    assert reason_of(verifier, message(sign(OLD))) == "signature"
    assert accepted.before != accepted.after
    assert NEW.hex()[:16] not in f"{accepted}"


def test_a_file_without_a_key_keeps_the_one_that_counted(tmp_path: Path) -> None:
    file = key_file(tmp_path, NEW)
    verifier = WebhookVerifier(keys=read_webhook_keys([file]), tolerance_seconds=300)
    private(file, "whsec_short")
    [refused] = WebhookKeys(files=[file], verifier=verifier).read()
    assert isinstance(refused, Refused)
    assert (refused.part, refused.code) == ("webhook_keys", "webhook_key_unusable")
    assert "short" not in refused.detail
    assert verifier.verify(message(sign(NEW)), BODY, now=NOW) == "hook.key"
