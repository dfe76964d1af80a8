"""YAML without surprises: one document of mappings, lists and text, each node with its place in the file.

YAML 1.1 turns `no` into false, `010` into 8 and `12:30` into 750, lets a file grow without bound through
aliases and call constructors through tags. None of that is wanted in a file that says who may read what.
So every scalar is text, and what could mean something else to another reader is refused.
"""

import re
from dataclasses import dataclass, field
from typing import Final, NoReturn

import yaml
from yaml.resolver import Resolver

from broker.errors import DocumentInvalidError

DEFAULT_MAX_BYTES: Final = 1_048_576
MAX_DEPTH: Final = 20
MAX_NODES: Final = 2_000_000

Path = tuple[str | int, ...]
Place = tuple[int, int]

# What YAML calls printable, and of that no byte order mark: the first of the file is removed before.
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MERGE_KEY: Final = "<<"
# YAML 1.1 has them, PyYAML has not.
_SHORT_BOOLEANS: Final = frozenset({"y", "Y", "n", "N"})
# libyaml is ten times as fast; a PyYAML that was built without it reads the same files.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class _Mark:
    """Where a node stands, where its key stands, and the same for what it holds."""

    place: Place
    key: Place
    children: "dict[str | int, _Mark]" = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """One document: `data` of dicts, lists and text, and where each node of it stands."""

    data: object
    _root: _Mark

    def place(self, path: Path) -> Place:
        """Return line and column, from 1, of the node at `path`, or of the nearest one above it that exists."""
        return self._mark(path).place

    def key_place(self, path: Path) -> Place:
        """Return line and column, from 1, of the key that leads to the node at `path`."""
        return self._mark(path).key

    def _mark(self, path: Path) -> _Mark:
        mark = self._root
        for step in path:
            child = mark.children.get(step)
            if child is None:
                break
            mark = child
        return mark


def read(text: str | bytes, *, what: str, max_bytes: int = DEFAULT_MAX_BYTES) -> Document:
    """Return the one document of `text`; `what` names it in errors, such as "the settings".

    Raises:
        DocumentInvalidError: It is too large, too deep, empty, not YAML, or uses more than mappings, lists and
            text; with line and column.

    """
    checked = _checked_text(text, what=what, max_bytes=max_bytes)
    builder = _Builder(what)
    try:
        for event in yaml.parse(checked, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (0, 0) if mark is None else (mark.line + 1, mark.column + 1)
        message = f"{what}: no YAML: {error.problem or error.context or 'can not be read'}"
        raise DocumentInvalidError(message, line=line, column=column) from None
    except yaml.YAMLError:
        message = f"{what}: no YAML"
        raise DocumentInvalidError(message) from None
    return builder.document()


def is_ambiguous(text: str) -> bool:
    """Tell whether YAML 1.1 readers take the plain scalar `text` for something else than text."""
    resolvers = Resolver.yaml_implicit_resolvers
    candidates = [*resolvers.get(text[:1], []), *resolvers.get(None, [])]
    return text in _SHORT_BOOLEANS or any(expression.match(text) for _tag, expression in candidates)


def _checked_text(text: str | bytes, *, what: str, max_bytes: int) -> str:
    # A character is at least one byte, so this refuses before anything is copied.
    if len(text) > max_bytes:
        raise _too_large(what, max_bytes)
    if isinstance(text, bytes):
        decoded = _decoded(text, what)
    else:
        decoded = text
        if len(text.encode("utf-8", "surrogatepass")) > max_bytes:
            raise _too_large(what, max_bytes)
    decoded = decoded.removeprefix("\ufeff")
    if found := _UNPRINTABLE.search(decoded):
        line, column = _place_of(decoded, found.start())
        message = f"{what}: the character U+{ord(found.group()):04X} may not stand in YAML; remove it"
        raise DocumentInvalidError(message, line=line, column=column)
    return decoded


def _too_large(what: str, max_bytes: int) -> DocumentInvalidError:
    return DocumentInvalidError(f"{what}: larger than the {max_bytes:,} bytes that are read; split or shorten it")


def _decoded(text: bytes, what: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        line, column = _place_of(text[: error.start].decode(), error.start)
        message = f"{what}: not UTF-8; save it as UTF-8"
        raise DocumentInvalidError(message, line=line, column=column) from None


def _place_of(text: str, index: int) -> Place:
    before = text[:index]
    return before.count("\n") + 1, len(before) - before.rfind("\n")


@dataclass(slots=True)
class _Frame:
    """A mapping or a list whose end was not seen yet; `key` is the one that waits for its value."""

    data: dict[str, object] | list[object]
    mark: _Mark
    key: str | None = None
    key_place: Place = (0, 0)


class _Builder:
    """Build the data from the events, in one pass and without recursion, refusing as early as possible."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._stack: list[_Frame] = []
        self._nodes = 0
        self._documents = 0
        self._result: Document | None = None

    def document(self) -> Document:
        """Return what was built."""
        if self._result is None or self._result.data == "":
            message = f"{self._what}: empty"
            raise DocumentInvalidError(message, line=1, column=1)
        return self._result

    def take(self, event: yaml.Event) -> None:
        """Take the next event of the stream."""
        match event:
            case yaml.DocumentStartEvent():
                self._start_document(event)
            case yaml.AliasEvent():
                self._refuse("an alias (*name); write the value out, or quote it if * is meant", _place(event))
            case yaml.NodeEvent():
                self._take_node(event)
            case yaml.CollectionEndEvent():
                self._stack.pop()
            case _:
                pass  # Starts and ends of the stream and the end of the document say nothing new.

    def _start_document(self, event: yaml.DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            self._refuse("a second document (---); keep one", _place(event))
        if event.version or event.tags:
            self._refuse("a directive (%); remove it", _place(event))

    def _take_node(self, event: yaml.NodeEvent) -> None:
        place = _place(event)
        self._refuse_extras(event, place)
        if isinstance(event, yaml.ScalarEvent):
            if _SURROGATE.search(event.value):
                self._refuse("half of a surrogate pair (\\ud800 to \\udfff); write the character itself", place)
            if self._awaits_key():
                self._take_key(event.value, place)
            else:
                self._attach(event.value, place)
            return
        if self._awaits_key():
            self._refuse("a mapping or a list as a key; use text", place)
        if len(self._stack) >= MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} levels", place)
        data: dict[str, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._stack.append(_Frame(data, self._attach(data, place)))

    def _refuse_extras(self, event: yaml.NodeEvent, place: Place) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._refuse(f"more than {MAX_NODES:,} nodes", place)
        if event.anchor is not None:
            self._refuse("an anchor (&name); write the value out, or quote it if & is meant", place)
        if getattr(event, "tag", None) is not None:
            self._refuse("a tag (!name); remove it, or quote the text if ! is meant", place)

    def _awaits_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].data, dict) and self._stack[-1].key is None

    def _take_key(self, key: str, place: Place) -> None:
        frame = self._stack[-1]
        if key == _MERGE_KEY:
            self._refuse("a merge key (<<); write the entries out", place)
        if (first := frame.mark.children.get(key)) is not None:
            self._refuse(f"the key {_shown(key)} twice, first in line {first.key[0]}; keep one", place)
        frame.key, frame.key_place = key, place

    def _attach(self, value: object, place: Place) -> _Mark:
        if not self._stack:
            mark = _Mark(place, place)
            self._result = Document(value, mark)
            return mark
        frame = self._stack[-1]
        if isinstance(frame.data, list):
            mark = frame.mark.children[len(frame.data)] = _Mark(place, place)
            frame.data.append(value)
        else:
            key = "" if frame.key is None else frame.key
            mark = frame.mark.children[key] = _Mark(place, frame.key_place)
            frame.data[key] = value
            frame.key = None
        return mark

    def _refuse(self, found: str, place: Place) -> NoReturn:
        message = f"{self._what}: {found}"
        raise DocumentInvalidError(message, line=place[0], column=place[1])


def _place(event: yaml.Event) -> Place:
    mark = event.start_mark
    return (0, 0) if mark is None else (mark.line + 1, mark.column + 1)


def _shown(key: str) -> str:
    return repr(key if len(key) <= 80 else f"{key[:80]}...")  # noqa: PLR2004  Eighty characters are enough to find it.
