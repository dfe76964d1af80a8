import pytest

from broker.errors import SettingsInvalidError
from broker.providers.registry import PROVIDERS, entry_for


def test_each_scheme_stands_in_the_table_once() -> None:
    for entry in PROVIDERS:
        assert entry_for(entry.scheme) is entry


def test_a_scheme_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingsInvalidError, match=r"providers\.redis.*env, file, vault"):
        entry_for("redis")


def test_a_table_with_a_scheme_twice_is_refused_whatever_is_asked() -> None:
    with pytest.raises(SettingsInvalidError, match="env twice"):
        entry_for("file", table=(*PROVIDERS, PROVIDERS[0]))
