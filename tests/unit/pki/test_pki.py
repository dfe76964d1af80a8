"""Certificates for small set-ups: right extensions, closed keys, nothing overwritten."""

import json
import os
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.__main__ import main
from broker.errors import SettingsInvalidError
from broker.identity import identity_of
from broker.pki.authority import create_authority, issue_certificate

SHIPPER = "spiffe://prod.example/logflux/shipper"


def parsed(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    create_authority(directory, common_name="Test CA", days=10)
    return directory


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_keys_are_0600_and_certificates_0644_whatever_the_umask(tmp_path: Path, open_umask: None) -> None:
    directory = tmp_path / "new" / "pki"
    create_authority(directory, common_name="Test CA", days=10)
    issue_certificate(directory, name="a", usage="agent", spiffe=SHIPPER, days=1)

    assert mode(directory) == 0o700
    assert [mode(directory / name) for name in ("ca.key", "a.key")] == [0o600, 0o600]
    assert [mode(directory / name) for name in ("ca.crt", "a.crt")] == [0o644, 0o644]


def test_a_key_is_closed_before_its_first_byte(
    tmp_path: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = {}
    plain = os.open

    def watched(path: os.PathLike[str], flags: int, mode: int = 0o777, **rest: int) -> int:
        descriptor = plain(path, flags, mode, **rest)
        # Written beside its place and linked to it, so that it is there whole or not at all.
        if ".key." in Path(path).name:
            modes["ca.key"] = (stat.S_IMODE(os.fstat(descriptor).st_mode), os.fstat(descriptor).st_size)
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    create_authority(tmp_path / "pki", common_name="Test CA", days=10)

    assert modes == {"ca.key": (0o600, 0)}


def test_nothing_is_overwritten(pki: Path) -> None:
    issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=1)
    before = {file.name: file.read_bytes() for file in pki.iterdir()}

    with pytest.raises(SettingsInvalidError, match="exists already"):
        create_authority(pki, common_name="Other", days=10)
    with pytest.raises(SettingsInvalidError, match="exists already"):
        issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=1)
    (pki / "b.key").symlink_to("nowhere")
    with pytest.raises(SettingsInvalidError, match="exists already"):
        issue_certificate(pki, name="b", usage="agent", spiffe=SHIPPER, days=1)

    (pki / "b.key").unlink()
    assert {file.name: file.read_bytes() for file in pki.iterdir()} == before


def test_the_authority_can_sign_leaves_and_nothing_below_them(pki: Path) -> None:
    extensions = parsed(pki / "ca.crt").extensions

    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    usage = extensions.get_extension_for_class(x509.KeyUsage)

    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.crl_sign) == (True, True, True)
    assert not usage.value.digital_signature
    extensions.get_extension_for_class(x509.SubjectKeyIdentifier)


@pytest.mark.parametrize(
    ("usage", "spiffe", "purposes"),
    [
        ("server", None, {ExtendedKeyUsageOID.SERVER_AUTH}),
        ("agent", None, {ExtendedKeyUsageOID.CLIENT_AUTH}),
        ("agent", SHIPPER, {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
    ],
)
def test_a_leaf_has_the_purposes_of_its_use(pki: Path, usage: str, spiffe: str | None, purposes: set[object]) -> None:
    made = issue_certificate(pki, name="a", usage=usage, spiffe=spiffe, dns=("a.example",), days=1)
    extensions = parsed(made.certificate).extensions
    key_usage = extensions.get_extension_for_class(x509.KeyUsage)

    assert set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == purposes
    assert (key_usage.critical, key_usage.value.digital_signature) == (True, True)
    assert not key_usage.value.key_cert_sign
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_the_reported_identity_is_what_the_broker_sees(pki: Path) -> None:
    for name, names in {"s": {"spiffe": SHIPPER}, "d": {"dns": ("A.Example",)}, "f": {}}.items():
        made = issue_certificate(pki, name=name, usage="agent", days=1, **names)
        der = parsed(made.certificate).public_bytes(serialization.Encoding.DER)
        assert made.identity == identity_of(der).name


@pytest.mark.parametrize(
    "names", [{"spiffe": "spiffe://Prod.example/a"}, {"spiffe": "https://a/b"}, {"dns": ("a.example", "b.example")}]
)
def test_an_agent_that_the_broker_would_refuse_is_never_issued(pki: Path, names: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalidError, match="would refuse"):
        issue_certificate(pki, name="a", usage="agent", days=1, **names)
    assert sorted(file.name for file in pki.iterdir()) == ["ca.crt", "ca.key"]


@pytest.mark.parametrize("name", ["", ".", "../a", "a/b", "-a", ".a", "a\n", "ä", "ca", "a" * 65])
def test_a_name_that_is_no_plain_file_name_is_refused(pki: Path, name: str) -> None:
    with pytest.raises(SettingsInvalidError, match="file's name"):
        issue_certificate(pki, name=name, usage="agent", spiffe=SHIPPER, days=1)


@pytest.mark.parametrize(
    "wrong", [{"dns": ("ü.example",)}, {"ips": ("10.0.0",)}, {"days": 0}, {"days": 40_000}, {"days": 12}, {"dns": ()}]
)
def test_unusable_arguments_of_a_server_are_refused(pki: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalidError):
        issue_certificate(pki, **{"name": "a", "usage": "server", "dns": ("localhost",), "days": 1, **wrong})
    assert not (pki / "a.key").exists()


def test_a_leaf_never_outlives_its_authority(pki: Path) -> None:
    made = issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=10)
    assert made.not_after <= parsed(pki / "ca.crt").not_valid_after_utc


def test_issuing_without_an_authority_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalidError, match="broker pki init"):
        issue_certificate(tmp_path, name="a", usage="agent", spiffe=SHIPPER, days=1)


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_authority_is_refused(pki: Path, damage: bytes) -> None:
    (pki / "ca.key").write_bytes(damage)
    with pytest.raises(SettingsInvalidError, match=r"ca\.key"):
        issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=1)


def test_the_key_of_another_authority_is_refused(pki: Path, tmp_path: Path) -> None:
    create_authority(tmp_path / "other", common_name="Other", days=10)
    (pki / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(SettingsInvalidError, match="not the key of"):
        issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=1)


def test_an_authority_key_that_others_may_read_is_refused(pki: Path) -> None:
    (pki / "ca.key").chmod(0o644)
    with pytest.raises(SettingsInvalidError, match="0644"):
        issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=1)


def test_rsa_keys_have_4096_bits(pki: Path) -> None:
    made = issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=1, key_type="rsa4096")
    key = parsed(made.certificate).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 4096


def test_strict_verification_accepts_both_ends(pki: Path) -> None:
    server = issue_certificate(pki, name="s", usage="server", dns=("localhost",), days=1)
    agent = issue_certificate(pki, name="a", usage="agent", spiffe=SHIPPER, days=1)
    here, there = (ssl.SSLContext(kind) for kind in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT))
    for context, made in ((here, server), (there, agent)):
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(pki / "ca.crt")
        context.load_cert_chain(made.certificate, made.key)
    one, two, back, forth = (ssl.MemoryBIO() for _ in range(4))
    server_side = here.wrap_bio(one, two, server_side=True)
    client_side = there.wrap_bio(back, forth, server_hostname="localhost")
    finished = set()
    for _ in range(6):
        for side, inbox, outbox in ((client_side, one, forth), (server_side, back, two)):
            try:
                side.do_handshake()
                finished.add(side)
            except ssl.SSLWantReadError:
                pass
            inbox.write(outbox.read())
    assert finished == {server_side, client_side}


def test_the_command_makes_and_prints_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pki = str(tmp_path / "pki")

    assert main(["pki", "init", "--dir", pki, "--name", "My CA", "--days", "30"]) == 0
    assert f"{pki}/ca.crt" in capsys.readouterr().out
    assert main(["pki", "issue", "b", "--dir", pki, "--server", "--dns", "localhost", "--days", "9", "--json"]) == 0
    server = json.loads(capsys.readouterr().out)
    assert server["fingerprint"].startswith("sha256:")
    assert "identity" not in server
    assert main(["pki", "issue", "a", "--dir", pki, "--agent", "--spiffe", SHIPPER, "--days", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identity"] == SHIPPER


def test_the_command_never_prints_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pki = str(tmp_path / "pki")
    main(["pki", "init", "--dir", pki])
    main(["pki", "issue", "a", "--dir", pki, "--agent", "--spiffe", SHIPPER])
    assert "PRIVATE" not in "".join(capsys.readouterr())


def test_the_command_answers_3_when_something_is_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pki = str(tmp_path / "pki")
    main(["pki", "init", "--dir", pki])
    assert main(["pki", "init", "--dir", pki]) == 3
    assert "error[settings_invalid]" in capsys.readouterr().err


@pytest.mark.parametrize("line", [["issue", "a"], ["issue", "a", "--server", "--agent"], [], ["init", "--days", "x"]])
def test_the_command_answers_2_to_a_wrong_line(tmp_path: Path, line: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["pki", *line, *(["--dir", str(tmp_path)] if line else [])])
    assert caught.value.code == 2


def test_a_list_is_published_in_one_step_where_the_broker_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pki, place = tmp_path / "pki", tmp_path / "agents.crl"
    create_authority(pki, common_name="test", days=1)
    made = issue_certificate(pki, name="shipper", usage="agent", dns=("shipper.example",), days=1)
    place.write_text("the list before")
    before = place.stat().st_ino
    assert main(["pki", "revoke", "--dir", str(pki), str(made.certificate), "--publish", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["published"] == str(place)
    assert place.read_bytes() == (pki / "ca.crl").read_bytes()
    assert (place.stat().st_mode & 0o777, place.stat().st_ino != before) == (0o644, True)


def test_a_list_that_can_not_be_published_is_told_with_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pki, place = tmp_path / "pki", tmp_path / "nowhere" / "agents.crl"
    create_authority(pki, common_name="test", days=1)
    assert main(["pki", "revoke", "--dir", str(pki), "--publish", str(place)]) == 3
    assert f"the new list is in {pki / 'ca.crl'}, and the broker does not have it" in capsys.readouterr().err
