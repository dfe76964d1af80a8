import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import SettingsInvalidError
from broker.providers.dotenv import read_dotenv


def values(text: bytes) -> dict[str, bytes]:
    return {name: value.reveal() for name, value in read_dotenv(text, where="f").items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=b", b"b"),
        ("export A=b", b"b"),
        ("  A=b  ", b"b"),
        ("A=", b""),
        ("A= # nothing", b""),
        ("A=b # comment", b"b"),
        ("A=b\t# comment", b"b"),
        ("A=b#c", b"b#c"),
        ("A=#b", b"#b"),
        ("A=b=c", b"b=c"),
        ("A=b c", b"b c"),
        ("A=it's", b"it's"),
        ("A=''", b""),
        ("A='b # c' # d", b"b # c"),
        ("A=' b '", b" b "),
        ("A='$X `id` \\n'", b"$X `id` \\n"),
        ('A="b\\n\\t\\"\\\\"', b'b\n\t"\\'),
        ('A="\\\\n"', b"\\n"),
        ("A=${X}", b"${X}"),
        ("A=$(id)", b"$(id)"),
        ("A=b\\n", b"b\\n"),
        ("A=süß", "süß".encode()),
        ("A=b\r", b"b"),
        ("A=b\r\n# x\r\n", b"b"),
        ("# x\n\n  # y\nA=b\n", b"b"),
    ],
)
def test_the_dialect(text: str, expected: bytes) -> None:
    assert values(text.encode()) == {"A": expected}


def test_several_names_stand_below_each_other() -> None:
    assert values(b"A=1\nexport B='2'\n_C3=\"3\"\n") == {"A": b"1", "B": b"2", "_C3": b"3"}


def test_an_empty_file_names_nothing() -> None:
    assert values(b"") == {}


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "export",
        "export A",
        "1A=b",
        "a=b",
        "A-B=b",
        "A =b",
        "A= b",
        "A=\tb",
        'A= "b"',
        "A=b\nA=c",
        "A='b",
        'A="b\nB=c"',
        'A="\\x"',
        'A="\\$b"',
        "A='b' c",
        "A=b\0",
        "A=b\rB=c",
        "\ufeffA=b",
        f"{'A' * 129}=b",
    ],
)
def test_what_the_dialect_does_not_know_is_refused_with_its_line_and_never_its_text(text: str) -> None:
    with pytest.raises(SettingsInvalidError, match=r"f: line \d+") as raised:
        read_dotenv(text.replace("b", "hunter2").encode(), where="f")
    assert "hunter2" not in raised.value.detail


def test_the_line_is_the_one_that_is_wrong() -> None:
    with pytest.raises(SettingsInvalidError, match="f: line 3: "):
        read_dotenv(b"# x\nA=1\nB\nC=1\n", where="f")


def test_an_open_quote_does_not_swallow_the_lines_after_it() -> None:
    with pytest.raises(SettingsInvalidError, match=r"f: line 1: .*quote"):
        read_dotenv(b"A='1\nB=2'\n", where="f")


def test_a_file_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(SettingsInvalidError, match="UTF-8"):
        read_dotenv(b"A=\xff", where="f")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=200)
def test_no_input_raises_anything_but_the_declared_error(text: bytes) -> None:
    try:
        found = read_dotenv(text, where="f")
    except SettingsInvalidError:
        return
    assert all(name.isascii() for name in found)


@given(st.text(st.characters(codec="utf-8", exclude_characters="'\n\r\0"), max_size=50))
@settings(max_examples=100)
def test_single_quotes_keep_every_character_of_a_line(value: str) -> None:
    assert values(f"A='{value}'\n".encode()) == {"A": value.encode()}
