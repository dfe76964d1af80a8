"""The sealing key out of systemd's host key, a TPM and an HSM, by the commands of the page about it."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cache.sealed import SealedCacheError, SealedFile, load_sealing_key
from tests.docs.pages import ROOT
from tests.programs import needed, needed_file
from tests.waiting import wait_until

PAGE = (ROOT / "docs" / "how-to" / "sealing-key.md").read_text()
CREDENTIAL = "/etc/logflux-broker/credentials/seal.key"
PIN = "canary-4711"


def block(beginning: str) -> str:
    """Return the one block of the page that begins so."""
    [found] = [text for text in re.findall(r"```[a-z]+\n(.*?)```", PAGE, re.DOTALL) if text.startswith(beginning)]
    return str(found)


def sh(script: str, **environment: str) -> None:
    command = ["sh", "-euc", script]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert PIN not in done.stdout + done.stderr


def private_file(data: bytes, file: Path) -> Path:
    file.touch(mode=0o600)
    file.write_bytes(data)
    return file


def opens_after_a_restart(directory: Path, first: bytes, second: bytes) -> bool:
    """Tell whether what is sealed with the key of one start opens at the next, with the key of that."""
    sealed = directory / "sealed.cache"
    before, after = (private_file(data, directory / name) for data, name in ((first, "first"), (second, "second")))
    SealedFile(file=sealed, key=load_sealing_key(before)).save([])
    try:
        SealedFile(file=sealed, key=load_sealing_key(after)).load(now=time.time())
    except SealedCacheError:
        return False
    return True


# systemd-creds.


class Machine:
    """A host key and a TPM of its own, for `systemd-creds`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._host = directory / "host"
        self._host.mkdir(parents=True)
        self._tpm = directory / "tpm"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def tpm(self) -> str:
        """Return the TPM as `--tpm2-device` names it, started at the first use."""
        if self._child is None:
            self._tpm.mkdir()
            needed_file("*/libtss2-tcti-swtpm.so.0", "libtss2-tcti-swtpm0")
            server, control = (f"type=unixio,path={self._tpm}/sock{end}" for end in ("", ".ctrl"))
            command = [needed("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self._tpm}"]
            command += ["--server", server, "--ctrl", control, "--flags", "not-need-init,startup-clear"]
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until((self._tpm / "sock.ctrl").exists, "the TPM")
        return f"swtpm:path={self._tpm}/sock"

    def run(self, script: str, *, with_tpm: bool) -> None:
        needed("systemd-creds")
        device = f" --tpm2-device={self.tpm}" if with_tpm else ""
        script = re.sub(r"systemd-creds (encrypt|decrypt)", rf"systemd-creds \1{device}", script)
        mounted = f"mkdir -p /var/lib/systemd; mount --bind {self._host} /var/lib/systemd\n{script}"
        sh('exec unshare --mount sh -euc "$SCRIPT"', SCRIPT=mounted)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    ours, other = Machine(tmp_path / "ours"), Machine(tmp_path / "other")
    yield ours, other
    ours.close()
    other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="systemd-creds keeps the host's key for root alone: run as root")
@pytest.mark.parametrize("kind", ["host", "tpm2", "host+tpm2"])
def test_a_key_that_systemd_creds_encrypts_is_there_on_this_machine_alone(
    machines: tuple[Machine, Machine], tmp_path: Path, kind: str
) -> None:
    ours, other = machines
    credential = tmp_path / "seal.key"
    encrypt = block("head -c 32 /dev/urandom | systemd-creds").replace(CREDENTIAL, str(credential))
    assert "--with-key=host+tpm2" in encrypt
    ours.run(encrypt.replace("--with-key=host+tpm2", f"--with-key={kind}"), with_tpm="tpm2" in kind)
    for number in ("first", "second"):
        out = tmp_path / f"decrypted-{number}"
        # What LoadCredentialEncrypted= does at each start.
        ours.run(f"systemd-creds decrypt --name=seal.key {credential} {out}", with_tpm="tpm2" in kind)
    first, second = (tmp_path / f"decrypted-{number}" for number in ("first", "second"))
    assert opens_after_a_restart(tmp_path, first.read_bytes(), second.read_bytes())
    assert first.read_bytes() not in credential.read_bytes()
    with pytest.raises(AssertionError):
        other.run(f"systemd-creds decrypt --name=seal.key {credential} {tmp_path}/stolen", with_tpm="tpm2" in kind)
    assert not (tmp_path / "stolen").exists()


def test_a_key_that_tpm2_tools_seal_is_there_on_this_machine_alone(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    needed("tpm2_unseal")
    ours, other = machines

    def run(script: str, machine: Machine, out: str) -> None:
        places = {"/run/logflux-broker/seal.key": f"{tmp_path}/{out}", "/etc/logflux-broker": str(tmp_path)}
        for there, here in {**places, "/run/": f"{machine.directory}/"}.items():
            script = script.replace(there, here)
        # What the kernel does behind /dev/tpmrm0, and nobody for a bare TPM.
        sh(script.replace("\n", "\ntpm2_flushcontext --transient-object\n"), TPM2TOOLS_TCTI=machine.tpm)

    seal, unseal = block("tpm2_createprimary"), block("umask 077\ntpm2_createprimary")
    run(seal, ours, "")
    for out in ("first-unsealed", "second-unsealed"):
        run(unseal, ours, out)
        assert (tmp_path / out).stat().st_mode & 0o077 == 0
    first, second = ((tmp_path / out).read_bytes() for out in ("first-unsealed", "second-unsealed"))
    assert opens_after_a_restart(tmp_path, first, second)
    with pytest.raises(AssertionError):
        run(unseal, other, "stolen")
    assert not (tmp_path / "stolen").exists()


# An HSM.


@pytest.fixture
def hsm(tmp_path: Path) -> dict[str, str]:
    """The environment of a token in software."""
    module = needed_file("*/softhsm/libsofthsm2.so", "softhsm2")
    needed("pkcs11-tool")
    (tmp_path / "tokens").mkdir()
    config = tmp_path / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tmp_path}/tokens\n")
    it = {"SOFTHSM2_CONF": str(config), "MODULE": str(module), "PIN": PIN}
    token = [needed("softhsm2-util"), "--init-token", "--free", "--label", "broker", "--pin", PIN, "--so-pin", "4711"]
    subprocess.run(token, check=True, capture_output=True, env={**os.environ, **it})
    return it


def unwrapped(hsm: dict[str, str], directory: Path) -> bytes:
    """Return what systemd reads from the socket of the page at one start."""
    unit = block("[Service]\nEnvironmentFile").replace("/etc/logflux-broker", str(directory))
    [command] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    words = command.replace("${MODULE}", hsm["MODULE"]).split()
    sock = directory / "seal.sock"
    activate = [needed("systemd-socket-activate"), f"--listen={sock}", "--accept", "--inetd"]
    # It hands on only what it is told to.
    passed = [f"--setenv={name}" for name in hsm]
    # StandardError=journal: without a unit it would go to the socket too.
    quiet = ["sh", "-c", 'exec "$@" 2>&-', "sh"]
    child = subprocess.Popen([*activate, *passed, *quiet, *words], env={**os.environ, **hsm}, stderr=subprocess.DEVNULL)
    try:
        wait_until(sock.exists, "the socket")
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(30)
            asked.connect(str(sock))
            return b"".join(iter(lambda: asked.recv(4096), b""))
    finally:
        child.kill()
        child.wait()
        sock.unlink()


def test_a_key_that_an_hsm_unwraps_is_there_at_each_start(hsm: dict[str, str], tmp_path: Path) -> None:
    script = block("pkcs11-tool").replace("/etc/logflux-broker", str(tmp_path))
    sh(f"cd {tmp_path}\n{script}", **hsm)
    first, second = unwrapped(hsm, tmp_path), unwrapped(hsm, tmp_path)
    assert opens_after_a_restart(tmp_path, first, second)
    assert first not in (tmp_path / "seal.wrapped").read_bytes()
    assert unwrapped({**hsm, "PIN": "wrong"}, tmp_path) == b""


def test_the_units_of_the_page_verify_without_a_word(tmp_path: Path) -> None:
    needed("pkcs11-tool")
    units = {"broker-seal.socket": "[Socket]", "broker-seal@.service": "[Service]\nEnvironmentFile"}
    for name, beginning in units.items():
        (tmp_path / name).write_text(block(beginning).replace("/etc/logflux-broker/hsm.env", "-/etc/hsm.env"))
    command = [needed("systemd-analyze"), "--no-pager", "verify", *(str(tmp_path / name) for name in units)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
