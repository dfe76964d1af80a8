"""Who holds the connections, and who has to let go of some."""

from broker.web.listening.holders import Holders


class Connection:
    def __init__(self, idle_seconds: float | None = None) -> None:
        self.idle_seconds = idle_seconds
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True


def filled(holders: Holders, name: str, count: int, *, idle_seconds: float | None = None) -> list[Connection]:
    connections = [Connection(idle_seconds) for _ in range(count)]
    assert all(holders.enter(name, connection) for connection in connections)
    return connections


def test_an_eighth_of_what_others_leave_is_out_of_reach_for_one_identity() -> None:
    holders = Holders(places=1024, idle_seconds=2)
    busy = filled(holders, "greedy", 896)
    assert not holders.enter("greedy", Connection())
    # Two that work together lock nobody out either.
    filled(holders, "its friend", 112)
    assert not holders.enter("its friend", Connection())
    filled(holders, "modest", 14)
    for connection in busy[:2] + busy[:2]:
        holders.leave("greedy", connection)
    assert not holders.enter("greedy", Connection()), "it has as much as all that is free, seven times over"
    filled(holders, "late", 1)


def test_where_nobody_has_a_name_all_places_are_for_everybody() -> None:
    holders = Holders(places=None, idle_seconds=2)
    filled(holders, "", 10_000)


def test_who_has_its_share_takes_the_next_from_itself() -> None:
    holders = Holders(places=16, idle_seconds=2)
    filled(holders, "greedy", 12)
    idle = filled(holders, "greedy", 2, idle_seconds=3)
    other = filled(holders, "modest", 1, idle_seconds=60)
    assert holders.enter("greedy", Connection())
    assert [connection.is_cut for connection in (*idle, *other)] == [True, False, False]
    holders.leave("greedy", idle[0])
    assert holders.enter("greedy", Connection())
    assert not holders.enter("greedy", Connection()), "what was cut counts no more, and once"


def test_room_is_made_by_who_holds_most_and_has_something_idle() -> None:
    gave_way = []
    holders = Holders(places=100, idle_seconds=2, gave_way=lambda: gave_way.append(1))
    filled(holders, "busy", 40)
    young = filled(holders, "busy", 1, idle_seconds=1.9)
    idle = filled(holders, "greedy", 20, idle_seconds=2)
    modest = filled(holders, "modest", 3, idle_seconds=60)
    holders.make_room()
    assert [connection.is_cut for connection in (*idle[:8], *idle[8:], *young, *modest)] == [True] * 8 + [False] * 16
    assert len(gave_way) == 8


def test_nobody_makes_room_who_is_busy() -> None:
    holders = Holders(places=4, idle_seconds=2)
    busy = filled(holders, "busy", 4)
    holders.make_room()
    assert not any(connection.is_cut for connection in busy)
