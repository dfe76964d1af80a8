"""Requests are read by aiohttp's parser in C, or not at all."""

import pytest
from aiohttp import http_parser

from broker.errors import SettingsInvalidError
from broker.web.listening.parser import require_strict_parser


def test_the_parser_in_c_is_what_is_installed() -> None:
    require_strict_parser()


def test_the_parser_in_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(SettingsInvalidError, match="AIOHTTP_NO_EXTENSIONS"):
        require_strict_parser()
