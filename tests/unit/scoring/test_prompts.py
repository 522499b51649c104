import pytest

from clipdemo.errors import CaptionError
from clipdemo.scoring.prompts import CLIP_SEVEN, MAX_TERMS, Query, Templates, read_captions, weaknesses


def test_captions_are_read_one_a_line_and_blanks_are_skipped():
    assert read_captions("a cat\n\n  a   dog \n", 50).captions == ("a cat", "a dog")


def test_duplicates_are_dropped_with_a_note():
    read = read_captions("a cat\na cat\na  cat", 50)
    assert read.captions == ("a cat",)
    assert read.notes == ("2 duplicate captions were dropped.",)


def test_captions_beyond_the_limit_are_left_out_with_a_note():
    read = read_captions("\n".join(f"caption {n}" for n in range(7)), 5)
    assert len(read.captions) == 5
    assert "2 more captions left out; the limit is 5" in read.notes[0]


def test_an_endless_caption_is_refused_and_the_others_stay():
    read = read_captions("a cat\n" + "x" * 3000, 5)
    assert read.captions == ("a cat",)
    assert "3,000 characters" in read.notes[0]


def test_a_broken_weighted_line_is_named_and_the_others_stay():
    read = read_captions("a cat ++ \na dog", 5)
    assert read.captions == ("a dog",)
    assert "write words after ++" in read.notes[0]


def test_control_and_direction_characters_are_removed():
    assert read_captions("a\x00 \u202ecat\ud800", 5).captions == ("a cat",)


@pytest.mark.parametrize(
    "line", ["black-and-white photo", "C++ code", "coffee - black", "a -- ", "--help", "1 + 1"]
)
def test_ordinary_captions_are_not_mistaken_for_weighted_ones(line):
    if line == "a -- ":
        with pytest.raises(CaptionError):
            Query.parse(line)
    else:
        assert not Query.parse(line).weighted


def test_a_weighted_line_is_read_as_terms():
    terms = Query.parse("a beach ++ sunset ^0.5 -- people ^2").terms
    assert [(term.text, term.weight) for term in terms] == [("a beach", 1), ("sunset", 0.5), ("people", -2)]


def test_the_first_term_may_carry_a_sign_and_a_weight():
    assert [(t.text, t.weight) for t in Query.parse("++ cat ^2 -- dog").terms] == [("cat", 2), ("dog", -1)]


@pytest.mark.parametrize("line", ["-- people", "a ++ ", "a ++ b ^0", "a ++ b ^11", "a" + " ++ b" * MAX_TERMS])
def test_an_unreadable_weighted_line_is_refused(line):
    with pytest.raises(CaptionError):
        Query.parse(line)


def test_templates_are_filled():
    assert Templates.parse("a photo of {}\n{} in the snow").fill("a dog") == [
        "a photo of a dog",
        "a dog in the snow",
    ]
    assert Templates.parse(" \n").fill("a dog") == ["a dog"]
    assert len(Templates(CLIP_SEVEN).fill("dog")) == 7


@pytest.mark.parametrize(
    "text", ["a photo", "{} and {}", "x" * 300 + "{}", "\n".join(f"{n} {{}}" for n in range(30))]
)
def test_unusable_templates_are_refused(text):
    with pytest.raises(CaptionError):
        Templates.parse(text)


def test_braces_in_a_caption_are_left_alone():
    assert Templates(("a {} here",)).fill("{} {0.__class__}") == ["a {} {0.__class__} here"]


@pytest.mark.parametrize(
    ("caption", "about"),
    [
        ("a street without cars", "negation"),
        ("there isn't a dog", "negation"),
        ("three dogs", "counts"),
        ("a cup left of a book", "positions"),
    ],
)
def test_what_models_handle_poorly_is_pointed_out(caption, about):
    assert any(about in words for words in weaknesses(caption))


@pytest.mark.parametrize("caption", ["a photo of a dog", "a notable knot", "one dog", "the front of a house"])
def test_other_captions_get_no_warning(caption):
    assert weaknesses(caption) == []


def test_a_flood_of_broken_lines_is_a_handful_of_notes():
    read = read_captions("\n".join(f"-- x{n}" for n in range(5000)) + "\na cat", 5)
    assert read.captions == ("a cat",)
    assert len(read.notes) <= 10


def test_terms_that_cancel_out_are_named_before_anything_is_scored():
    assert "cancels out" in read_captions("a cat -- A cat\na dog", 5).notes[0]
