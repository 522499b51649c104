"""Caption text before it is encoded: lines, weighted queries, prompt templates and lint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clipdemo.errors import CaptionError

MAX_CAPTION_CHARACTERS = 2_000
MAX_TERMS = 8
MAX_TEMPLATES = 20
MAX_NOTES = 10
# "++ words" adds and "-- words" subtracts; the doubled sign between spaces is rare in captions.
_TERM = re.compile(r"(?:^|(?<=\s))(\+\+|--)(?=\s|$)")
_WEIGHT = re.compile(r"\s*\^\s*(\d+(?:\.\d+)?)\s*$")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# The seven best of CLIP's 80 ImageNet templates, found by forward selection (openai/CLIP,
# notebooks/Prompt_Engineering_for_ImageNet.ipynb).
CLIP_SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


@dataclass(frozen=True)
class Templates:
    """Prompt templates; several are ensembled by averaging their embeddings.

    Attributes:
        patterns: each holds ``{}`` once, where the caption goes.
    """

    patterns: tuple[str, ...] = ("{}",)

    @classmethod
    def parse(cls, text: str) -> Templates:
        """One template a line; empty text means captions as typed.

        Raises:
            CaptionError: a line without exactly one ``{}``, too long, or too many lines.
        """
        lines = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
        if len(lines) > MAX_TEMPLATES:
            raise CaptionError(f"{len(lines)} templates; at most {MAX_TEMPLATES} are ensembled")
        for line in lines:
            if line.count("{}") != 1:
                raise CaptionError(f"the template {line[:60]!r} needs {{}} once, where the caption goes")
            if len(line) > 200:
                raise CaptionError(f"the template {line[:60]!r}… is longer than 200 characters")
        return cls(lines or ("{}",))

    def fill(self, caption: str) -> list[str]:
        """The caption in every template."""
        return [pattern.replace("{}", caption) for pattern in self.patterns]


PRESETS = {
    "as typed": Templates(),
    "a photo of …": Templates(("a photo of {}",)),
    "CLIP's seven, ensembled": Templates(CLIP_SEVEN),
}


@dataclass(frozen=True)
class Term:
    """Words to add (weight above zero) or to remove (below)."""

    text: str
    weight: float


@dataclass(frozen=True)
class Query:
    """A caption line read as a weighted sum of terms; a plain caption is one term of weight one."""

    line: str
    terms: tuple[Term, ...]

    @classmethod
    def plain(cls, caption: str) -> Query:
        """The caption as it stands, whatever signs it holds.

        Raises:
            CaptionError: no words, or characters that are no text.
        """
        _check(caption)
        return cls(caption, (Term(caption, 1.0),))

    @classmethod
    def parse(cls, line: str) -> Query:
        """Read ``a beach ++ sunset ^0.5 -- people`` as beach + 0.5 sunset - people.

        Raises:
            CaptionError: a sign without words, a weight outside 0-10, too many terms, nothing to add.
        """
        _check(line)
        parts = _TERM.split(line)
        if len(parts) == 1:
            return cls.plain(line)
        signs = ["++", *parts[1::2]]
        terms = []
        for number, (sign, words) in enumerate(zip(signs, parts[0::2], strict=True)):
            if not words.strip():
                if number == 0:
                    continue
                raise CaptionError(f"{line[:60]!r}: write words after {sign}, such as “{sign} people”")
            found = _WEIGHT.search(words)
            weight = float(found.group(1)) if found else 1.0
            if not 0 < weight <= 10:
                raise CaptionError(f"{line[:60]!r}: the weight {weight:g} is not between 0 and 10")
            text = _WEIGHT.sub("", words).strip()
            terms.append(Term(text, weight if sign == "++" else -weight))
        if len(terms) > MAX_TERMS:
            raise CaptionError(f"{line[:60]!r} has {len(terms)} terms; at most {MAX_TERMS} are read")
        together: dict[str, float] = {}
        for term in terms:
            together[term.text.lower()] = together.get(term.text.lower(), 0) + term.weight
        if not any(together.values()):
            raise CaptionError(f"{line[:60]!r}: what is added and removed cancels out")
        if all(term.weight < 0 for term in terms):
            raise CaptionError(f"{line[:60]!r} only removes; say first what to look for")
        return cls(line, tuple(terms))

    @property
    def weighted(self) -> bool:
        """Whether the line is more than a plain caption."""
        return len(self.terms) > 1 or self.terms[0].weight != 1

    def cancelled(self) -> CaptionError:
        """The error for a query whose terms add up to nothing."""
        return CaptionError(f"{self.line[:60]!r}: what is added and removed cancels out")


def _check(caption: object) -> None:
    if not isinstance(caption, str) or not caption.strip():
        raise CaptionError(f"{caption!r} is no caption; write a few words")
    if any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise CaptionError(f"{caption[:60]!a} holds characters that are no text (lone surrogates)")


@dataclass(frozen=True)
class CaptionLines:
    """A text box read as captions.

    Attributes:
        captions: what is scored, in order, each once.
        notes: what was dropped or refused, in sentences.
    """

    captions: tuple[str, ...]
    notes: tuple[str, ...]


def read_captions(text: str, limit: int) -> CaptionLines:
    """One caption a line; blanks are skipped, duplicates dropped, unreadable lines refused with a note.

    Args:
        text: untrusted, of any length.
        limit: most captions taken.
    """
    captions: dict[str, None] = {}
    notes, over, twice = [], 0, 0
    for raw in text.splitlines():
        line = " ".join(_CONTROL.sub(" ", raw).encode("utf-8", "ignore").decode().split())
        if not line:
            continue
        if line in captions:
            twice += 1
        elif len(captions) >= limit:
            over += 1
        elif len(line) > MAX_CAPTION_CHARACTERS:
            notes.append(
                f"A caption of {len(line):,} characters was left out; {MAX_CAPTION_CHARACTERS:,} is the most."
            )
        else:
            try:
                Query.parse(line)
            except CaptionError as error:
                notes.append(f"Left out: {error}.")
                continue
            captions[line] = None
    if twice:
        notes.append(f"{twice} duplicate caption{'s were' if twice > 1 else ' was'} dropped.")
    if over:
        notes.append(f"{over} more caption{'s' if over > 1 else ''} left out; {limit} is the most.")
    return CaptionLines(tuple(captions), tuple(dict.fromkeys(notes))[-MAX_NOTES:])


_WEAKNESSES: Sequence[tuple[str, re.Pattern[str]]] = (
    (
        "negation: “no dog” scores much like “dog”; remove words with “-- dog” instead",
        re.compile(r"\b(no|not|without|never|none|nobody|nothing|\w+n['’]t)\b", re.IGNORECASE),
    ),
    (
        "counts: “three dogs” and “two dogs” score alike",
        re.compile(
            r"\b(two|three|four|five|six|seven|eight|nine|ten|dozen|several|[2-9]|[1-9]\d+)\s+\w+",
            re.IGNORECASE,
        ),
    ),
    (
        "where things are: “a cup left of a book” scores like “a book left of a cup”",
        re.compile(
            r"\b(left of|right of|above|below|beneath|under|behind|in front of|next to|on top of"
            r"|between|beside)\b",
            re.IGNORECASE,
        ),
    ),
)


def weaknesses(caption: str) -> list[str]:
    """What CLIP-like models read badly in this caption, in words.

    Source: Yuksekgonul et al. 2023 (arXiv:2210.01936) for order and relations; Radford et al. 2021,
    section 6 for counting; Alhamoud et al. 2025 (arXiv:2501.09425) for negation.
    """
    return [words for words, pattern in _WEAKNESSES if pattern.search(caption)]
