"""The pages and prompts that ship in the package ``docs``, and a ranked search over the sections of the pages."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

_WORD = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_ENDINGS = (
    *["ifications", "ification", "ifying", "ifiers", "ifier", "ifies", "ified", "ify"],
    *["isations", "isation", "ising", "ised", "ise", "izations", "ization", "izing", "ized", "ize"],
    *["ments", "ment", "ing", "ions", "ion", "ive", "ors", "or", "ers", "er", "ies", "es", "ed", "s", "e"],
)
"""Longer ones first."""
_COMMON = frozenset(
    """a about all an and any are as at be by can do does for from get has have how i if in is it its me my need no not
    of on or should some that the their them there they this to use used using was way what when where which who why
    will with would you your""".split()  # noqa: SIM905  a list of words reads as words
)
_SATURATION, _LENGTH_WEIGHT = 1.4, 0.5
_SHORTEST = 0.5
"""Of the mean length: a row of a table is not the better answer for saying less."""
_TITLE_WEIGHT = 3
_PAGE_WEIGHT = 0.6
_NAME_WEIGHT = 2.0
_RECORD_WEIGHT = 0.6
_ASKED = frozenset({"agent-experience", "agent-tasks"})
"""Pages whose rows repeat what agents asked: a row that is the question has no answer."""
RECORDS = _ASKED | {"architecture", "benchmarks", "benchmarks-cpu", "compatibility-mcp", "kernels"}
"""Pages that say how fw is made and measured, not how it is used; they have a shape of their own."""
_ROW = re.compile(r"^\| *([^|]+?) *\|")
_RULER = re.compile(r"^\|(?: *:?-+:? *\|)+$")
MAX_EXCERPT_CHARS = 700
GAP = "…"


@dataclass(frozen=True)
class Section:
    """One heading of a page with the text below it, or one ``row`` (its first cell) of a table below that heading."""

    page: str
    heading: str
    text: str
    row: str = ""


@dataclass(frozen=True)
class Hit:
    """A section that answers a query; a greater ``score`` is a better answer.

    Attributes:
        row: first cell of the row of a table, where the answer is one.
        excerpt: lines of the section; ``…`` stands where some are left out.
    """

    page: str
    heading: str
    excerpt: str
    score: float
    row: str = ""


@cache
def pages() -> dict[str, str]:
    """Page id to markdown, in alphabetical order."""
    files = [entry for entry in resources.files("docs").iterdir() if entry.name.endswith(".md")]
    return {entry.name[:-3]: entry.read_text(encoding="utf-8") for entry in sorted(files, key=lambda e: e.name)}


def prompt(name: str, **values: str) -> str:
    """The text of ``docs/prompts/<name>.md`` with its ``{places}`` filled in."""
    text = (resources.files("docs") / "prompts" / f"{name}.md").read_text(encoding="utf-8")
    return text.strip().format_map(values)


def purpose(page: str) -> str:
    """The sentence at the top of a page that says what it is for."""
    lines = (line.strip() for line in pages()[page].splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def unknown_words(query: str) -> list[str]:
    """The words of a query that mean something and stand in no page, in no form of theirs."""
    known = _page_index().holders
    words = dict.fromkeys(_WORD.findall(query.lower()))
    return [word for word in words if (stems := _words(word)) and not any(stem in known for stem in stems)]


def covered(query: str, hits: Sequence[Hit]) -> float:
    """The part of a query's words, each weighed by how rare it is, that the best of the hits has; from 0 to 1."""
    index, words = _index(), set(_words(query))
    total = sum(map(index.rarity, words))
    said = [set(_words(f"{hit.page} {hit.heading} {hit.row} {hit.excerpt}")) for hit in hits]
    return max((sum(map(index.rarity, words & other)) / total for other in said if total), default=0.0)


def search(query: str, limit: int = 5) -> list[Hit]:
    """Sections ranked by BM25 over stemmed words, with a part of their page's own score.

    Words of the heading, of the page's name and of its first line count threefold, a query that names the page counts
    extra, and pages that record rather than explain come behind. Every row of a table is a section too.
    """
    index, whole = _index(), _page_index()
    words = list(dict.fromkeys(_words(query)))
    of_page = {section.page: whole.score(number, words) for number, section in enumerate(whole.sections)}
    scored = []
    for number, section in enumerate(index.sections):
        score = index.score(number, words)
        if score > 0:
            score += _PAGE_WEIGHT * of_page[section.page] + _NAME_WEIGHT * ({*_words(section.page)} <= {*words})
            scored.append((score * (_RECORD_WEIGHT if section.page in RECORDS else 1), number))
    hits: list[Hit] = []
    for score, number in sorted(scored, key=lambda item: (-item[0], item[1])):
        section = index.sections[number]
        if len(hits) == limit:
            break
        if not any(section.page == hit.page and section.text in hit.excerpt for hit in hits):
            hits.append(_hit(section, words, score))
    return hits


@dataclass(frozen=True)
class _Index:
    sections: list[Section]
    counts: list[Counter[str]]
    lengths: list[int]
    holders: Counter[str]

    def score(self, number: int, words: list[str]) -> float:
        counts, total = self.counts[number], len(self.sections)
        relative = max(_SHORTEST, self.lengths[number] / (sum(self.lengths) / total))
        damping = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * relative)
        return sum(
            self.rarity(word) * counts[word] * (_SATURATION + 1) / (counts[word] + damping)
            for word in words
            if counts[word]
        )

    def rarity(self, word: str) -> float:
        """Greater for a word that fewer sections have."""
        return math.log(1 + (len(self.sections) - self.holders[word] + 0.5) / (self.holders[word] + 0.5))


@cache
def _index() -> _Index:
    every = (section for page, text in pages().items() for section in _sections(page, text))
    return _indexed([section for section in every if not (section.row and section.page in _ASKED)])


@cache
def _page_index() -> _Index:
    return _indexed([Section(page, page, text) for page, text in pages().items()])


def _indexed(sections: list[Section]) -> _Index:
    counts = [Counter(_text_words(section.text) + _title_words(section) * _TITLE_WEIGHT) for section in sections]
    holders: Counter[str] = Counter()
    for count in counts:
        holders.update(count.keys())
    return _Index(sections, counts, [count.total() for count in counts], holders)


def _sections(page: str, text: str) -> list[Section]:
    """Every heading with the text below it, and every row of a table by itself, which is found by its first cell."""
    found, heading, lines, fenced = [], page, list[str](), False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if line.startswith("#") and not fenced:
            found.append(Section(page, heading, "\n".join(lines).strip()))
            heading, lines = line.lstrip("# "), []
            continue
        if _RULER.match(line):
            found.pop()  # what stood above it is the table's head
        elif (row := _ROW.match(line)) and not fenced:
            found.append(Section(page, heading, line, row[1]))
        lines.append(line)
    found.append(Section(page, heading, "\n".join(lines).strip()))
    return [section for section in found if section.text]


def _title_words(section: Section) -> list[str]:
    """Of its page's name and its heading; at the top of a page also of the line that says what the page is for."""
    lead = purpose(section.page) if section.text.startswith(purpose(section.page)) else ""
    return _words(f"{section.page} {section.row or section.heading} {lead}")


def _text_words(text: str) -> list[str]:
    """Words of prose as often as they stand there, those of code once: code says the same names again and again."""
    parts = text.split("```")
    code = {word for block in parts[1::2] for word in _words(block.partition("\n")[2])}
    return [word for prose in parts[::2] for word in _words(prose)] + sorted(code)


def _words(text: str) -> list[str]:
    """Stems of the words that mean something; a name with underscores counts as itself and by its parts."""
    found = []
    for name in _WORD.findall(text.lower()):
        parts = name.split("_")
        found += [_stem(part) for part in parts if part not in _COMMON] + ([name] if len(parts) > 1 else [])
    return found


def _stem(word: str) -> str:
    """Folds plurals and the commonest endings in either spelling: 'deployments' finds 'deploy'."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word


def _hit(section: Section, words: list[str], score: float) -> Hit:
    return Hit(section.page, section.heading, _excerpt(section.text, words), round(score, 3), section.row)


def _excerpt(text: str, words: list[str]) -> str:
    """The whole section, or of a long one the lines that answer best, in their order, with ``…`` for the others."""
    if len(text) <= MAX_EXCERPT_CHARS:
        return text
    lines, wanted = text.splitlines(), set(words)
    ranked = sorted(range(len(lines)), key=lambda number: -len(wanted & set(_words(lines[number]))))
    chosen: set[int] = set()
    for number in ranked:
        if len(_with_gaps(lines, {*chosen, number})) <= MAX_EXCERPT_CHARS:
            chosen.add(number)
    return _with_gaps(lines, chosen)


def _with_gaps(lines: list[str], chosen: set[int]) -> str:
    shown: list[str] = []
    for number, line in enumerate(lines):
        if number in chosen:
            shown.append(line)
        elif not shown or shown[-1] != GAP:
            shown.append(GAP)
    return "\n".join(shown)
