import numpy as np
import pytest

from clipdemo.audit.ledger import Ledger, ScoredRow
from clipdemo.errors import LedgerError


def row_of(*values):
    return np.array(values, dtype=np.float32)


def filled(path=None):
    ledger = Ledger(path)
    ledger.describe({"table": "abc"})
    ledger.add_image("aa", row_of(1, 0), b"jpeg")
    ledger.add_image("bb", row_of(0, 1), None)
    for name, image, error in (
        ("a.jpg", 0, ""),
        ("b.jpg", 1, ""),
        ("copy.jpg", 0, ""),
        ("c.jpg", None, "gone"),
    ):
        ledger.add_file(name, image, error)
    ledger.add_caption("a cat", row_of(0.6, 0.8), truncated=True)
    ledger.add_rows(
        [ScoredRow(0, 0, 0, 0.6, ""), ScoredRow(1, None, None, None, "gone"), ScoredRow(2, 1, 0, 0.8, "")]
    )
    return ledger


def test_added_values_are_returned():
    ledger = filled()
    assert (ledger.image_count, ledger.caption_count, ledger.row_count) == (2, 1, 3)
    assert ledger.image("bb") == 1
    assert ledger.image("zz") is None
    assert ledger.caption("a cat") == 0
    assert ledger.caption_text(0) == ("a cat", True)
    assert ledger.file("c.jpg").error == "gone"
    assert ledger.file("d.jpg") is None
    assert ledger.thumbnail(0) == b"jpeg"
    assert ledger.thumbnail(1) is None
    assert ledger.file_name(0) == "a.jpg"
    assert [row.number for row in ledger.rows(1)] == [1, 2]
    numbers, pairs, cosines = ledger.pairs()
    assert numbers.tolist() == [0, 2]
    assert pairs.tolist() == [[0, 0], [1, 0]]
    assert cosines.tolist() == pytest.approx([0.6, 0.8])
    assert np.concatenate(list(ledger.image_blocks())).tolist() == [[1, 0], [0, 1]]
    assert ledger.image_embeddings([1, 0, 1]).tolist() == [[0, 1], [1, 0], [0, 1]]


def test_an_image_under_two_names_is_a_duplicate():
    assert filled().duplicates() == {0}


def test_only_committed_rows_survive_the_process(tmp_path):
    path = tmp_path / "run.progress"
    ledger = filled(path)
    ledger.commit()
    ledger.add_rows([ScoredRow(3, None, None, None, "late")])
    ledger.close()
    again = Ledger(path)
    assert again.row_count == 3
    assert again.about() == {"table": "abc"}


def test_a_file_that_is_not_a_ledger_is_refused_with_a_sentence(tmp_path):
    path = tmp_path / "run.progress"
    path.write_bytes(b"not a database, but long enough to be looked at" * 30)
    with pytest.raises(LedgerError, match="delete it"):
        Ledger(path)


def test_hostile_names_stay_names():
    ledger = Ledger()
    for name in ("'; DROP TABLE rows; --", "\x00", "😀" * 500, "a" * 100_000):
        ledger.add_file(name, None, "no")
        assert ledger.file(name).error == "no"
