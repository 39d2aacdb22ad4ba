"""Dead letters in words, and as plain values for JSON.

Only :func:`letter_words` and :func:`letter_facts_with_event` contain personal data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from stream.commands.console import aligned_table, printable, shown_time
from stream.commands.dlq.letters import Letter
from stream.commands.dlq.replay import Replayed
from stream.iso_time import iso_milliseconds

__all__ = [
    "Group",
    "group_facts",
    "grouped",
    "groups_table",
    "letter_facts",
    "letter_facts_with_event",
    "letter_line",
    "letter_words",
    "replay_words",
]

#: A healthy topic has a handful of reasons. But anyone who can write to the topic can make up more.
_GROUPS_MAX: Final = 200
_OTHER_REASONS: Final = ("(others)", "")
#: Without --full, this many characters of a key, value or header are shown, and this many headers.
_SHOWN_MAX: Final = 4_000
_HEADERS_MAX: Final = 50
_COLUMNS: Final = ("REASON", "COUNT", "STAGE", "OLDEST", "NEWEST", "NEWEST AT")


@dataclass(slots=True)
class Group:
    """The dead letters of one reason and stage. Times are milliseconds since 1970."""

    reason: str
    stage: str
    count: int
    oldest_ms: int
    newest_ms: int
    newest_at: str


def grouped(letters: Iterable[Letter]) -> list[Group]:
    """Count dead letters by reason and stage, the most frequent first."""
    groups: dict[tuple[str, str], Group] = {}
    for letter in letters:
        name = (letter.reason, letter.stage)
        if name not in groups:
            if len(groups) >= _GROUPS_MAX:
                name = _OTHER_REASONS
            groups.setdefault(name, Group(*name, 0, letter.time_ms, letter.time_ms, letter.place))
        group = groups[name]
        group.count += 1
        group.oldest_ms = min(group.oldest_ms, letter.time_ms)
        if letter.time_ms >= group.newest_ms:
            group.newest_ms, group.newest_at = letter.time_ms, letter.place
    return sorted(groups.values(), key=lambda group: -group.count)


def group_facts(group: Group) -> dict[str, Any]:
    """One group as plain values."""
    return {
        "reason": group.reason,
        "stage": group.stage,
        "count": group.count,
        "oldest": iso_milliseconds(group.oldest_ms),
        "newest": iso_milliseconds(group.newest_ms),
        "newest_at": group.newest_at,
    }


def groups_table(groups: list[Group]) -> list[str]:
    """The groups as aligned lines under a heading."""
    return aligned_table([_COLUMNS, *map(_row, groups)], right_aligned={_COLUMNS.index("COUNT")})


def _row(group: Group) -> tuple[str, ...]:
    return (
        printable(group.reason),
        f"{group.count:,}",
        printable(group.stage) or "-",
        _time(group.oldest_ms),
        _time(group.newest_ms),
        group.newest_at,
    )


def letter_line(letter: Letter) -> str:
    """One dead letter on a line, without the event."""
    source = f"{letter.source_topic}/{_or_dash(letter.source_partition)}/{_or_dash(letter.source_offset)}"
    words = f"{letter.reason}  {letter.stage or '-'}  attempt {letter.attempt}  from {source}  {letter.message}"
    return f"{letter.place:<12}  {_time(letter.time_ms)}  {printable(words)}".rstrip()


def letter_facts(letter: Letter) -> dict[str, Any]:
    """What is known of a dead letter, without the event, as plain values."""
    source_time = letter.source_time_ms
    return {
        "place": letter.place,
        "time": iso_milliseconds(letter.time_ms),
        "writer": letter.writer,
        "reason": letter.reason,
        "message": letter.message,
        "stage": letter.stage,
        "failed_in": letter.failed_in,
        "attempt": letter.attempt,
        "source_topic": letter.source_topic,
        "source_partition": letter.source_partition,
        "source_offset": letter.source_offset,
        "source_time": None if source_time is None else iso_milliseconds(source_time),
        "cut_from_bytes": letter.cut_from,
    }


def letter_facts_with_event(letter: Letter, *, full: bool) -> dict[str, Any]:
    """Everything of a dead letter, with the event. This is personal data, for users who have asked to see it."""
    return {
        **letter_facts(letter),
        "headers": [[name, _text(content, full)] for name, content in letter.headers],
        "key": _text(letter.key, full),
        "value": _text(letter.value, full),
    }


def letter_words(letter: Letter, *, full: bool) -> str:
    """Everything of a dead letter, with the event, as lines of text."""
    facts = letter_facts(letter)
    named = [
        f"  {name.replace('_', ' '):<16}  {printable(str(value))}"
        for name, value in facts.items()
        if value not in ("", None)
    ]
    shown = letter.headers if full else letter.headers[:_HEADERS_MAX]
    headers = [f"  {printable(name)}  {_escaped(_text(content, full))}" for name, content in shown]
    if len(shown) < len(letter.headers):
        headers.append(f"  … {len(letter.headers) - len(shown):,} more headers, --full shows them")
    return "\n".join(
        [
            *named,
            f"headers of the event ({len(letter.headers):,})",
            *headers,
            f"key ({_size(letter.key)})",
            f"  {_escaped(_text(letter.key, full))}",
            f"value ({_size(letter.value)})",
            f"  {_escaped(_text(letter.value, full))}",
        ]
    )


def replay_words(done: Replayed, *, dry_run: bool) -> list[str]:
    """What a replay sent (or would send) to which partitions, and what it left and why."""
    partitions = ", ".join(f"{topic} {partition}: {n:,}" for (topic, partition), n in sorted(done.sent.items()))
    read_whole = f"; {done.read_whole:,} were cut and read whole from their source topic" if done.read_whole else ""
    lines = [f"{'would send' if dry_run else 'sent'} {done.total:,} ({partitions or 'nothing'}){read_whole}"]
    return lines + [f"left {n:,} that {why}" for why, n in done.left.most_common()]


def _time(time_ms: int) -> str:
    return shown_time(iso_milliseconds(time_ms))[:19]


def _or_dash(number: int | None) -> str:
    return "-" if number is None else str(number)


def _size(content: bytes | None) -> str:
    return "none" if content is None else f"{len(content):,} byte{'s' * (len(content) != 1)}"


def _text(content: bytes | None, full: bool) -> str | None:
    """Bytes as text. A byte that is not UTF-8 becomes ``\\xff``. A long text is cut, and says so."""
    if content is None:
        return None
    text = content.decode(errors="backslashreplace")
    if full or len(text) <= _SHOWN_MAX:
        return text
    return f"{text[:_SHOWN_MAX]}… {len(text) - _SHOWN_MAX:,} more characters, --full shows them"


def _escaped(text: str | None) -> str:
    """Text in which characters that could steer a terminal are escaped. Line ends stay."""
    if text is None:
        return "-"
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
