"""Captions before they are encoded: lines, weighted queries, prompt templates and known weaknesses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clipdemo.errors import CaptionError

MAX_CAPTION_CHARACTERS = 2_000
MAX_TERMS = 8
MAX_TEMPLATES = 20
MAX_NOTES = 10
# "++ words" adds and "-- words" subtracts; a doubled sign between spaces is rare in captions.
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
        patterns: each contains ``{}`` once, in place of the caption.
    """

    patterns: tuple[str, ...] = ("{}",)

    @classmethod
    def parse(cls, text: str) -> Templates:
        """Read one template per line; empty text means captions as typed.

        Raises:
            CaptionError: a line lacks ``{}`` or has several, is too long, or there are too many lines.
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
        """Return the caption in every template."""
        return [pattern.replace("{}", caption) for pattern in self.patterns]


PRESETS = {
    "as typed": Templates(),
    "a photo of …": Templates(("a photo of {}",)),
    "CLIP's seven, ensembled": Templates(CLIP_SEVEN),
}


@dataclass(frozen=True)
class Term:
    """Words to add (weight above zero) or to subtract (below zero)."""

    text: str
    weight: float


@dataclass(frozen=True)
class Query:
    """A caption as a weighted sum of terms; a plain caption is one term of weight 1."""

    line: str
    terms: tuple[Term, ...]

    @classmethod
    def plain(cls, caption: str) -> Query:
        """Return the caption as one term, whatever signs it contains.

        Raises:
            CaptionError: the caption is empty or contains characters that are not text.
        """
        _check(caption)
        return cls(caption, (Term(caption, 1.0),))

    @classmethod
    def parse(cls, line: str) -> Query:
        """Read ``a beach ++ sunset ^0.5 -- people`` as beach + 0.5 sunset - people.

        Raises:
            CaptionError: a sign lacks words, a weight is outside 0-10, there are too many terms, or none is
                added.
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
            match = _WEIGHT.search(words)
            weight = float(match.group(1)) if match else 1.0
            if not 0 < weight <= 10:
                raise CaptionError(f"{line[:60]!r}: the weight {weight:g} is not between 0 and 10")
            text = _WEIGHT.sub("", words).strip()
            terms.append(Term(text, weight if sign == "++" else -weight))
        if len(terms) > MAX_TERMS:
            raise CaptionError(f"{line[:60]!r} has {len(terms)} terms; at most {MAX_TERMS} are read")
        query = cls(line, tuple(terms))
        sums: dict[str, float] = {}
        for term in terms:
            sums[term.text.lower()] = sums.get(term.text.lower(), 0) + term.weight
        if not any(sums.values()):
            raise query.cancelled()
        if all(term.weight < 0 for term in terms):
            raise CaptionError(f"{line[:60]!r} only subtracts; write first what to look for")
        return query

    @property
    def weighted(self) -> bool:
        """Whether the line is more than a plain caption."""
        return len(self.terms) > 1 or self.terms[0].weight != 1

    def cancelled(self) -> CaptionError:
        """Return the error for a query whose terms cancel out."""
        return CaptionError(f"{self.line[:60]!r}: what is added and subtracted cancels out")


def _check(caption: object) -> None:
    if not isinstance(caption, str) or not caption.strip():
        raise CaptionError(f"{caption!r} is not a caption; write a few words")
    if any("\ud800" <= letter <= "\udfff" for letter in caption):
        raise CaptionError(f"{caption[:60]!a} contains characters that are not text (lone surrogates)")


@dataclass(frozen=True)
class CaptionLines:
    """The captions of a text box.

    Attributes:
        captions: in order, without duplicates.
        notes: sentences on lines that were dropped.
    """

    captions: tuple[str, ...]
    notes: tuple[str, ...]


def read_captions(text: str, limit: int) -> CaptionLines:
    """Read one caption per line; duplicates and unreadable lines are dropped with a note.

    Args:
        text: untrusted, of any length.
        limit: maximum number of captions.
    """
    captions: dict[str, None] = {}
    notes, beyond_limit, duplicates = [], 0, 0
    for raw in text.splitlines():
        line = " ".join(_CONTROL.sub(" ", raw).encode("utf-8", "ignore").decode().split())
        if not line:
            continue
        if line in captions:
            duplicates += 1
        elif len(captions) >= limit:
            beyond_limit += 1
        elif len(line) > MAX_CAPTION_CHARACTERS:
            notes.append(
                f"A caption of {len(line):,} characters was left out; the limit is "
                f"{MAX_CAPTION_CHARACTERS:,}."
            )
        else:
            try:
                Query.parse(line)
            except CaptionError as error:
                notes.append(f"Left out: {error}.")
                continue
            captions[line] = None
    if duplicates:
        notes.append(f"{duplicates} duplicate caption{'s were' if duplicates > 1 else ' was'} dropped.")
    if beyond_limit:
        plural = "s" if beyond_limit > 1 else ""
        notes.append(f"{beyond_limit} more caption{plural} left out; the limit is {limit}.")
    return CaptionLines(tuple(captions), tuple(dict.fromkeys(notes))[-MAX_NOTES:])


_WEAKNESSES: Sequence[tuple[str, re.Pattern[str]]] = (
    (
        "negation: “no dog” scores much like “dog”; subtract words with “-- dog” instead",
        re.compile(r"\b(no|not|without|never|none|nobody|nothing|\w+n['’]t)\b", re.IGNORECASE),
    ),
    (
        "counts: “three dogs” and “two dogs” have similar scores",
        re.compile(
            r"\b(two|three|four|five|six|seven|eight|nine|ten|dozen|several|[2-9]|[1-9]\d+)\s+\w+",
            re.IGNORECASE,
        ),
    ),
    (
        "positions: “a cup left of a book” scores like “a book left of a cup”",
        re.compile(
            r"\b(left of|right of|above|below|beneath|under|behind|in front of|next to|on top of"
            r"|between|beside)\b",
            re.IGNORECASE,
        ),
    ),
)


def weaknesses(caption: str) -> list[str]:
    """Return sentences on what CLIP models handle poorly in this caption.

    Source: Yuksekgonul et al. 2023 (arXiv:2210.01936) for order and relations; Radford et al. 2021,
    section 6 for counting; Alhamoud et al. 2025 (arXiv:2501.09425) for negation.
    """
    return [text for text, pattern in _WEAKNESSES if pattern.search(caption)]
