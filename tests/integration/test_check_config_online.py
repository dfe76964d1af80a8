"""`broker check-config --online` against a real store."""

import json
from collections.abc import Iterator

import pytest

from broker.__main__ import main
from broker.cli.sandbox import Sandbox, sandbox


@pytest.fixture(scope="module")
def place() -> Iterator[Sandbox]:
    with sandbox(fresh_for="5m") as made:
        yield made


def check(place: Sandbox, capsys: pytest.CaptureFixture[str], **replaced: str) -> tuple[int, list[dict[str, str]]]:
    text = place.settings_file.read_text()
    for old, new in replaced.items():
        text = text.replace(getattr(place, old), new)
    file = place.directory / "checked.yaml"
    file.write_text(text)
    status = main(["check-config", "--config", str(file), "--online", "--json"])
    return status, json.loads(capsys.readouterr().out)["findings"]


def test_a_good_store_is_found_good_and_no_secret_is_read(place: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    check(place, capsys)
    before = sorted(place.directory.rglob("*"))
    assert check(place, capsys) == (0, [])
    assert sorted(place.directory.rglob("*")) == before


def test_a_store_that_is_away_is_found(place: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    status, [finding] = check(place, capsys, store_address="http://127.0.0.1:1")
    assert (status, finding["code"], finding["where"]) == (3, "source_unavailable", "providers.vault")


def test_a_name_without_dns_is_found(place: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    status, [finding] = check(place, capsys, store_address="https://store.invalid:8200")
    assert (status, finding["code"]) == (3, "source_unavailable")
    assert "can't be resolved" in finding["why"]


def test_a_refused_login_is_found(place: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    file = place.directory / "secret_id"
    good = file.read_bytes()
    file.write_text("00000000-0000-0000-0000-000000000000")
    try:
        status, [finding] = check(place, capsys)
    finally:
        file.write_bytes(good)
    assert (status, finding["code"]) == (3, "source_unavailable")
    assert (
        finding["why"]
        == "the store refuses the broker's login (POST auth/approle/login: 400 invalid role or secret id)"
    )


def test_a_path_of_the_policy_that_the_role_may_not_see_is_found(
    place: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = place.directory / "policy.yaml"
    good = policy.read_text()
    policy.write_text(good.replace("vault:secret/logflux#*", "vault:elsewhere/app#*"))
    try:
        status, [finding] = check(place, capsys)
    finally:
        policy.write_text(good)
    assert (status, finding["code"], finding["where"]) == (3, "source_denied", "vault:elsewhere/app")
    assert "(GET sys/internal/ui/mounts/elsewhere/app: 403 preflight capability check" in finding["why"]


def test_a_wrapped_credential_is_not_used_up_just_to_look(place: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    good = place.settings_file.read_text()
    place.settings_file.write_text(good.replace("secret_id_file:", "role_name: broker, wrapped_secret_id_file:"))
    try:
        status, [finding] = check(place, capsys)
    finally:
        place.settings_file.write_text(good)
    assert (status, finding["code"], finding["severity"]) == (0, "source_not_asked", "warning")
