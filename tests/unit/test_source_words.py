"""What is kept of a source's words: enough for a person to act on, and nothing that can hold a value."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.audit.event import ReferenceRecord
from broker.source_words import _WORDS, SourceWords, plain_words

REQUEST = "43c1d1f6-14f2-108a-f014-407fffadbca3"
# As OpenBao 2.7 says them, and Vault says most of them too.
SAID = {
    "1 error occurred:\n\t* permission denied\n\n": "permission denied",
    "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n": "permission denied invalid token",
    'preflight capability check returned 403, please ensure client\'s policies grant access to path "secret/a/"': (
        "preflight capability check returned … please ensure client's policies grant access to path …"
    ),
    "unknown role: nope": "unknown role: …",
    "common name evil.example.org not allowed by this role": "common name … not allowed by this role",
    'Field validation failed: error converting input for field "ttl": time: invalid duration "xyz"': (
        "field validation failed: error converting input for field ttl: time: invalid duration …"
    ),
    'the value "10.1.2.3x" is not a valid IP address': "the value … is not a valid ip address",
    "key type aes256-gcm96 does not support signing": "key type … does not support signing",
    "invalid ciphertext: no prefix": "invalid ciphertext: no prefix",
    "1 error occurred:\n\t* unable to start transaction: failed to connect to `user=vaultadmin database=app`: "
    "127.0.0.1:1 (127.0.0.1): dial error: dial tcp 127.0.0.1:1: connect: connection refused\n\n": (
        "unable to start transaction: failed to connect to … dial error: dial tcp … connect: connection refused"
    ),
    'ERROR: role "v-app-4711" already exists (SQLSTATE 42710)': "error: role … already exists …",
    "invalid role or secret ID": "invalid role or secret id",
    "lease not found": "lease not found",
    "": "",
    " \n\t* \n": "",
}


def words(*texts: str, request: str = "") -> SourceWords:
    return SourceWords(asked="GET secret/data/app", status=403, texts=texts, request=request)


@pytest.mark.parametrize(("text", "kept"), SAID.items())
def test_what_a_person_needs_of_a_stores_error_is_kept(text: str, kept: str) -> None:
    assert plain_words(text) == kept


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=60), max_size=8))
@example(["permission\u2028denied", "per\u200bmission", "\uff24ENIED", "denied\x1b[2J", "\ud800"])
def test_nothing_but_words_of_errors_is_ever_kept(texts: list[str]) -> None:
    said = words(*texts).said
    assert {word.rstrip(",.:;") for word in said.split(" ")[1:]} <= _WORDS | {"…"}
    assert len(said) <= 4 * 49 * 20
    assert said.splitlines() == [said]


@pytest.mark.parametrize(
    "secret",
    [
        "hunter2",
        "Kanarie/4711+geheim&süß",
        "correct horse battery staple",
        "4711",
        "s.abcdefgh",
        "PASSWORD1",
        "d-e-n-i-e-d",
    ],
)
@pytest.mark.parametrize(
    "around", ["{}", '"{}"', "password={}", "failed for user '{}':", "denied{}", "{}denied", "x\n{}\ny"]
)
def test_no_part_of_a_secret_that_an_error_echoes_is_kept(secret: str, around: str) -> None:
    said = words(around.format(secret)).said
    assert not [part for part in secret.split() if part in said]


def test_how_a_secret_was_written_is_lost_even_where_it_is_a_word_of_errors() -> None:
    assert words("pErMiSsIoN").said == "403 permission"


def test_an_endless_error_is_cut_and_the_cut_is_marked() -> None:
    assert plain_words("denied " * 1000) == "denied " * 48 + "…"
    assert words(*["denied"] * 1000).said == "403 denied; denied; denied; denied"


def test_the_stores_id_of_the_request_is_kept_when_it_is_one() -> None:
    assert words("denied", request=REQUEST).request == REQUEST
    assert words("denied", request="hunter2").request == ""
    assert words("denied", request=f"{REQUEST}\n").request == ""


def test_a_record_says_what_was_asked_and_what_was_said() -> None:
    record = ReferenceRecord(
        reference="vault:secret/app#v", status="denied", words=words("permission denied", request=REQUEST)
    )
    assert json.loads(record.json) == {
        "reference": "vault:secret/app#v",
        "status": "denied",
        "upstream_asked": "GET secret/data/app",
        "upstream_request": REQUEST,
        "upstream_said": "403 permission denied",
    }
