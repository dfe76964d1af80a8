"""What holds for every text that comes as a token, also for one that is signed with the right key."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import TokenRefusedError
from broker.scope import parse_scope
from broker.tokens import TokenClaims
from tests.forging import HEADER, ISSUER, NAME, NOW, claims, issued, part, peer, signed, verifier

TOKEN = issued()
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(st.characters(codec=None))
)
ANY_JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
# Values that come close: of the right kind and wrong, or right and of the wrong kind.
NEAR = st.one_of(
    ANY_JSON,
    st.sampled_from([NAME, ISSUER, "env:A", "env:*", "**", "env%3AA", [ISSUER], NOW, NOW + 300, str(NOW), NOW + 0.0]),
    st.integers(NOW - 5000, NOW + 5000),
)


def verified(token: str) -> TokenClaims | None:
    try:
        return verifier().verify(token, peer=peer(), now=NOW)
    except TokenRefusedError:
        return None


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.text(st.characters(codec=None)),
        st.from_regex(r"[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\Z"),
        st.tuples(ANY_JSON, ANY_JSON).map(lambda parts: f"{part(parts[0])}.{part(parts[1])}.c2ln"),
    )
)
def test_no_unsigned_text_verifies_and_none_raises_anything_but_the_refusal(text: str) -> None:
    assert verified(text) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_changed_token_verifies(data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(TOKEN)))
    end = data.draw(st.integers(begin, min(begin + 3, len(TOKEN))))
    new = data.draw(st.text(ALPHABET + "=.+/ \n", max_size=3))
    changed = TOKEN[:begin] + new + TOKEN[end:]
    if changed != TOKEN:
        assert verified(changed) is None


@settings(max_examples=100, deadline=None)
@given(st.permutations(TOKEN.split(".")), st.lists(st.sampled_from(TOKEN.split(".")), max_size=5))
def test_no_other_order_of_the_parts_verifies(shuffled: list[str], drawn: list[str]) -> None:
    for parts in (shuffled, drawn):
        text = ".".join(parts)
        assert (verified(text) is not None) == (text == TOKEN)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(claims())), NEAR)
def test_a_well_signed_claim_of_any_value_is_refused_or_means_what_it_says(name: str, value: Any) -> None:
    document = {**claims(), name: value}
    try:
        token = signed(document)
    except UnicodeEncodeError:
        pytest.fail("json.dumps escapes everything that is not ASCII")
    found = verified(token)
    if found is None:
        return
    assert (found.subject, found.thumbprint) == (NAME, peer().thumbprint)
    assert document["iss"] == document["aud"] == ISSUER
    assert document["sub"] == document["client_id"] == NAME
    assert (type(document["iat"]), type(document["exp"])) == (int, int)
    assert document["iat"] <= NOW + 1
    assert NOW < document["exp"] <= document["iat"] + 3600
    assert (found.token_id, found.environment) == (document["jti"], document["env"])
    assert found.scope == parse_scope(document["scope"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "jku", "crit", "b64", ""]), NEAR, max_size=4))
def test_a_well_signed_token_of_any_other_header_is_refused(changes: dict[str, Any]) -> None:
    header = {**HEADER, **changes}
    if header != HEADER:
        assert verified(signed(claims(), header)) is None


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(claims())), NEAR)
def test_a_well_signed_claim_that_stands_twice_is_refused(name: str, value: Any) -> None:
    twice = json.dumps(claims())[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}"
    assert verified(signed(twice.encode())) is None
