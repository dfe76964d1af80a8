"""Which of aiohttp's two HTTP parsers reads the requests of agents."""

from aiohttp import http_parser

from broker.errors import SettingsInvalidError


def require_strict_parser() -> None:
    """Refuse to go on without aiohttp's parser in C, against which the refusal of smuggled requests was tried.

    aiohttp falls back to its parser in Python, without a word, when its extension is missing or switched off.

    Raises:
        SettingsInvalidError: It is the one in Python.

    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        message = (
            "aiohttp's HTTP parser in C is missing or switched off; install aiohttp from its wheel for this "
            "platform, and leave AIOHTTP_NO_EXTENSIONS unset"
        )
        raise SettingsInvalidError(message)
