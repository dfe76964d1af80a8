"""Walks through the pages about what an operator wrote: the policy, the settings, the files of the start."""

import contextlib
import shutil
import sqlite3

import pytest

from tests.runbooks.walking import API_KEY, Walk
from tests.running import serve_again
from tests.waiting import wait_until

# Alerts take their time to come and to go, on a loaded machine more of it.
pytestmark = pytest.mark.timeout(300)

SEARCH = "broker audit search --database /var/lib/logflux-broker/audit.db"


def test_policy_refused(walk: Walk) -> None:
    walk.start()
    walk.is_quiet()
    [_, digest] = walk.run("broker policy check").output.split("sha256 ")

    walk.change_policy("to: [shipper]", "to: [shiper]")
    walk.raises()
    # Line, column, and what to write there.
    walk.run("broker policy check", status=3).has("line 8, column 10", "add it under identities, or correct it")
    walk.run(SEARCH).says("in_force=").has(f"in_force={digest.strip()}", "reason=policy_invalid")
    assert walk.resolve().status == 200, "the policy before it stays in force"
    ended = serve_again(walk.place.settings_file)
    assert (ended.returncode, "shiper is not declared" in ended.stderr) == (3, True), (
        "with this file it would not start"
    )

    walk.change_policy("to: [shiper]", "to: [shipper]")
    walk.hang_up()
    walk.ends()
    walk.run("broker policy check").has(digest)


def test_configuration_not_in_force(walk: Walk) -> None:
    walk.start()
    walk.is_quiet()

    key = walk.path("/etc/logflux-broker/tls/tls.key")
    good = key.read_bytes()
    shutil.copyfile(walk.here.work / "shipper.key", key)
    walk.raises()
    walk.run("broker check-config", status=3).has("error[key_mismatch]", str(key))
    walk.run(SEARCH).has("reason=key_mismatch", "part=certificate")
    walk.run("journalctl").has('"part":"certificate"', '"code":"key_mismatch"')
    key.write_bytes(good)
    walk.hang_up()
    walk.ends()

    walk.change_settings(cache={"max_entries": 20})
    walk.hang_up()
    walk.raises()
    walk.run("broker check-config").has("nothing found")
    walk.run(SEARCH).says("reason=restart_needed", "kept=").has("kept=cache.max_entries", "part=settings")
    walk.run("journalctl").says("restart_needed").has('"part":"settings"', '"kept":"cache.max_entries"')
    walk.restart()
    walk.ends()


def test_denials_jump(walk: Walk) -> None:
    explain, failures, changes, before = (
        "broker policy explain",
        f"{SEARCH} --type resolve --outcome failure",
        f"{SEARCH} --type policy",
        f"{SEARCH} --identity",
    )
    walk.start()
    assert walk.resolve().status == 200
    walk.is_quiet()

    walk.change_policy("logflux#*", "other#*")
    wait_until(lambda: walk.resolve().status == 403, "the policy is in force")
    assert walk.resolve(*(f"{API_KEY}-{number}" for number in range(100))).status == 403
    walk.raises()
    walk.run(failures).has("spiffe://prod.example/logflux/shipper", f"{API_KEY}=denied(no_rule)", "address=127.0.0.1")
    walk.run(changes).says("before", "after").has("policy  success")
    walk.run(explain, status=1).says("DENIED").has("no_rule")

    walk.change_policy("other#*", "logflux#*")
    walk.hang_up()
    wait_until(lambda: walk.resolve().status == 200, "the policy is in force")
    walk.ends()
    walk.run(explain).says("ALLOWED")
    walk.run(before).has(f"{API_KEY}=ok")

    # Had it been an attack.
    assert walk.page.says("`deny` wins over every `allow`")
    policy = walk.path("/etc/logflux-broker/policy.yaml")
    policy.write_text(f'{policy.read_text()}  - name: stopped\n    deny: ["vault:**"]\n    to: [shipper]\n')
    walk.hang_up()
    walk.run(explain, status=1).says("DENIED").has("stopped")
    wait_until(lambda: walk.resolve().status == 403, "the policy is in force")


def test_broker_down(walk: Walk) -> None:
    check = "broker check-config"
    walk.start()
    walk.is_quiet()
    walk.run("broker health").has('"ready": true')
    key = walk.path("/etc/logflux-broker/tls/tls.key")
    key.chmod(0o644)
    walk.broker.child.kill()
    walk.raises()
    ended = serve_again(walk.place.settings_file)
    walk.journal["broker"] = ended.stdout + ended.stderr
    walk.run("broker health", status=4).has("Connection refused")
    # What the log says at its end is what the check finds, one line a finding.
    why = f"{key}: mode 0644 lets others at the key; run: chmod 600 {key}"
    walk.run("journalctl").has(why)
    assert walk.run(check, status=3).output.splitlines() == [f"error[key_open] tls.key: {why}"]

    # Nor does a broker run that can't write the record of its start.
    key.chmod(0o600)
    assert walk.page.says("A broker that can't write the record of its own start does not run")
    with contextlib.closing(sqlite3.connect(walk.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ended = serve_again(walk.place.settings_file)
    walk.journal["broker"] = ended.stdout + ended.stderr
    assert ended.returncode == 4
    walk.run("journalctl").has("SQLITE_BUSY")

    walk.run(check).has("nothing found: the broker would start")
    walk.restart()
    walk.ends()
