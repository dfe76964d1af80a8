"""`broker dev` prints commands to try; they work as they stand, in a shell that knows nothing of this checkout."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import wait_until

BARE = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}


def test_the_printed_commands_work_and_everything_goes_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as log:
        child = subprocess.Popen([sys.executable, "-m", "broker", "dev"], stdout=log, stderr=log, env=BARE)
    try:
        wait_until(lambda: '"event":"serving"' in output.read_text(), seconds=60)
        printed = output.read_text()
        introduction = printed[printed.index("try it:") : printed.index("  broker audit search")]
        script = "".join(line + "\n" for line in introduction.splitlines() if line.startswith("  "))
        assert 'export PATH="' in script
        done = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input=script,
            capture_output=True,
            text=True,
            env=BARE,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"status":"ok"') == 3
        # What `broker get` printed, after the answers of the two probes.
        assert done.stdout.rpartition("}")[2].startswith("lf_demo_")
        directory = Path(printed.split("everything below ")[1].split(" ")[0])
        assert directory.is_dir()
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=60)
    assert not directory.exists()
