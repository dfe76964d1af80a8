"""A broker in a control group with a real memory limit: its cache gives way, and it is not killed."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from broker.cli.sandbox import Sandbox, sandbox
from tests.control_groups import memory_group, needs_memory_group
from tests.running import RunningBroker, serving

MIB = 1024 * 1024
LIMIT = 192 * MIB
# Together far over the limit: without giving way the broker is killed at about a hundred of them.
VALUES = 250
AGENTS = 6
CONTENTS = tuple(letter * MIB for letter in "abcde")


def mount_values(place: Sandbox) -> list[str]:
    """Let a cache that takes everything be asked for more values than there is memory; return their references."""
    for number, text in enumerate(CONTENTS):
        (place.files / f"content-{number}").write_text(text)
        (place.files / f"content-{number}").chmod(0o600)
    for number in range(VALUES):
        (place.files / f"value-{number}").symlink_to(f"content-{number % len(CONTENTS)}")
    with place.settings_file.open("a") as settings:
        settings.write(f"cache: {{ max_bytes: {16 * LIMIT} }}\n")
    return [f"file:{place.files}/value-{number}" for number in range(VALUES)]


def ask(broker: RunningBroker, references: Iterator[tuple[int, str]]) -> list[int]:
    """Ask for one after the other on one connection; return the numbers of those that were answered wrongly."""
    connection = broker.connection(seconds=60.0)
    wrong = []
    for number, reference in references:
        body = json.dumps({"references": [reference]})
        connection.request("POST", "/v1/resolve", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200 or answer["results"][0]["value"] != CONTENTS[number % len(CONTENTS)]:
            wrong.append(number)
    connection.close()
    return wrong


def series(broker: RunningBroker, name: str) -> float:
    lines = broker.operations("/metrics").body.decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


@needs_memory_group
def test_the_cache_gives_way_and_every_request_is_answered() -> None:
    with memory_group(LIMIT) as group, sandbox(fresh_for="5m") as place:
        references = mount_values(place)
        with serving(place, wrapper=group.wrapper) as broker:
            assert series(broker, "broker_memory_limit_bytes") == LIMIT
            assert load(broker, references) == []
            assert broker.child.handle.poll() is None
            assert group.kills == 0
            assert series(broker, "broker_cache_gave_way_total") >= 1
            assert series(broker, "broker_memory_used_bytes") < LIMIT
            # Some of it stays, and goes on to serve.
            assert series(broker, "broker_cache_bytes") >= MIB
            assert f'"event":"memory_high","limit_bytes":{LIMIT},' in broker.log
            assert broker.terminate() == 0


def load(broker: RunningBroker, references: list[str]) -> list[int]:
    """Ask for everything from several sides, and see meanwhile that the broker stays ready; return what was wrong."""
    # Handed out one by one, under the interpreter's lock.
    waiting = iter(list(enumerate(references)))
    with ThreadPoolExecutor(AGENTS) as pool:
        agents = [pool.submit(ask, broker, waiting) for _ in range(AGENTS)]
        while wait(agents, timeout=0.1).not_done:
            assert broker.operations("/readyz").status == 200
    return list(itertools.chain.from_iterable(agent.result() for agent in agents))
