"""The Audit page, through Streamlit's test runner; charts and downloads are proved in the browser."""

import csv
import io
import zipfile

import pytest
from app_pages import text_of
from streamlit.testing.v1 import AppTest

from clipdemo import samples
from clipdemo.ui.pages.audit.results import output_csv


def audit_page():
    """The entry file without its navigation: the runner cannot follow pages that are functions."""
    import streamlit as st

    from clipdemo.ui import audits, inputs, jobs, state
    from clipdemo.ui.pages.audit import page as audit
    from clipdemo.ui.workspace import workspace

    engine, session = state.engine(), workspace()
    view = inputs.sidebar(engine, session)
    st.session_state["seen"] = audits.current()
    jobs.run(lambda: audit.show(view, engine), view.jobs, engine.loader, session, page="audit")


def open_page(run_app, **environment):
    run_app(**environment)
    page = AppTest.from_function(audit_page, default_timeout=180).run()
    assert not page.exception
    return page


def bring(page, table, *images, name="pairs.csv"):
    page.file_uploader(key="audit-file").upload(name, table, "text/csv").run()
    for image_name, data in images:
        page.file_uploader(key="audit-images").upload(image_name, data, "image/jpeg")
    page.run()
    return page


def start(page):
    next(button for button in page.button if button.label.startswith("Audit under")).click().run()
    assert not page.exception
    return page.session_state["seen"]


def sample(name):
    return (samples.SAMPLES / name).read_bytes()


def test_the_example_finds_the_captions_that_were_swapped(run_app):
    page = open_page(run_app)
    next(button for button in page.button if button.label.startswith("Try an example")).click().run()
    assert not page.exception
    run = page.session_state["seen"]
    swapped = {
        run.audit.image_name(int(run.audit.pairs[pair, 0]))
        for pair, flags in enumerate(run.audit.flags)
        if "likely swapped" in flags
    }
    assert swapped == {"coffee.jpg", "flower.jpg"}
    assert "14 of 14 rows scored" in text_of(page)
    page.pills(key="audit-filter").set_value("likely swapped").run()
    shown = page.dataframe[1].value
    assert set(shown["file"]) == swapped
    assert shown["percentile"].is_monotonic_increasing


def test_files_come_from_uploads_and_zips_and_failures_are_told_row_by_row(run_app):
    bundle = io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as archive:
        archive.writestr("inner/coffee.jpg", sample("coffee.jpg"))
        archive.writestr("../evil.jpg", sample("coffee.jpg"))
    table = (
        "note,image,caption\n"
        "=1+1,cat.jpg,a cat\n"
        "b,coffee.jpg,a cup of coffee\n"
        "c,gone.jpg,nothing\n"
        "d,/etc/passwd,a secret\n"
        "e,http://127.0.0.1/x.jpg,inside\n"
        "f,cat.jpg,\n"
    )
    page = bring(
        open_page(run_app), table.encode(), ("cat.jpg", sample("cat.jpg")), ("photos.zip", bundle.getvalue())
    )
    assert "6 rows" in text_of(page)
    run = start(page)
    rows = list(csv.DictReader(io.StringIO(output_csv(run.audit).decode("utf-8-sig"))))
    assert [row["note"] for row in rows] == ["'=1+1", "b", "c", "d", "e", "f"]
    assert [bool(row["error"]) for row in rows] == [False, False, True, True, True, True]
    assert rows[0]["rank_of_caption"] == rows[1]["rank_of_caption"] == "1"
    assert "upload it" in rows[2]["error"]
    assert "upload it" in rows[3]["error"]
    assert rows[4]["error"].startswith("blocked")
    assert "2 of 6 rows scored" in text_of(page)
    assert "evil" in text_of(page)
    page.pills(key="audit-filter").set_value("failed rows").run()
    assert page.dataframe[1].value["row"].tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"photo,words\na.jpg,a cat\n", "photo"),
        (b"", "empty"),
        (b"PK\x03\x04 a spreadsheet", "CSV"),
        (b"image,caption\n" + b"a.jpg,a cat\n" * 11, "more than 10 rows, the limit here; split it"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_words(run_app, table, words):
    page = bring(open_page(run_app, CLIPDEMO_MAX_ROWS="10"), table)
    assert words in page.error[0].value.replace("\\", "")
    assert not any(button.label.startswith("Audit under") for button in page.button)


def test_a_parquet_table_that_unpacks_to_too_much_is_refused(run_app):
    import pyarrow as pa
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pa.table({"image": ["a.jpg"] * 9, "caption": ["x" * 200_000] * 9}), out)
    assert len(out.getvalue()) < 200_000
    page = bring(open_page(run_app, CLIPDEMO_MAX_FILE_MB="0.2"), out.getvalue(), name="big.parquet")
    assert "unpacks to" in page.error[0].value


def test_columns_can_be_chosen(run_app):
    table = b"photo,words,caption\ncat.jpg,a cat,x\n"
    page = bring(open_page(run_app), table, ("cat.jpg", sample("cat.jpg")))
    page.selectbox(key="audit-image").set_value("photo")
    page.selectbox(key="audit-caption").set_value("words").run()
    run = start(page)
    assert run.audit.caption(0) == "a cat"


def test_a_stopped_audit_keeps_what_is_done(run_app, monkeypatch):
    from clipdemo.ui import audits

    monkeypatch.setattr(audits, "BATCH", 2)
    page = open_page(run_app)
    table = "image,caption\n" + "".join(f"cat.jpg,cat number {n}\n" for n in range(40))
    bring(page, table.encode(), ("cat.jpg", sample("cat.jpg")))
    real = audits.score_table

    def cancelled_after_four_steps(*args):
        for number, done in enumerate(real(*args)):
            yield done
            if number == 3:
                page.session_state["jobs"]["audit"].cancel()

    monkeypatch.setattr(audits, "score_table", cancelled_after_four_steps)
    run = start(page)
    assert 0 < run.summary.scored < 40
    assert "Stopped early" in text_of(page)
    rows = list(csv.DictReader(io.StringIO(output_csv(run.audit).decode("utf-8-sig"))))
    assert len(rows) == 40
    assert rows[-1]["error"].startswith("not scored")


def test_hostile_captions_are_only_words(run_app):
    table = io.StringIO()
    hostile = [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "$\\frac{1}{2}$",
        "=HYPERLINK(1)",
        "😀 مرحبا",
    ]
    csv.writer(table).writerows([["image", "caption"], *(["cat.jpg", caption] for caption in hostile)])
    page = bring(open_page(run_app), table.getvalue().encode(), ("cat.jpg", sample("cat.jpg")))
    run = start(page)
    assert run.summary.scored == len(hostile)
    assert "<script>" not in text_of(page)


def test_an_audit_that_breaks_off_keeps_its_rows_and_says_why(run_app, monkeypatch):
    from clipdemo.errors import CheckpointError
    from clipdemo.ui import audits

    real = audits.score_table

    def breaking(*args):
        yield next(iter(real(*args)))
        raise CheckpointError("the weights are gone")

    monkeypatch.setattr(audits, "score_table", breaking)
    monkeypatch.setattr(audits, "BATCH", 2)
    page = open_page(run_app)
    rows = "image,caption\n" + "".join(f"cat.jpg,cat number {n}\n" for n in range(9))
    bring(page, rows.encode(), ("cat.jpg", sample("cat.jpg")))
    run = start(page)
    assert "the weights are gone" in page.error[0].value
    assert run.finished
    assert len(list(csv.reader(io.StringIO(output_csv(run.audit).decode("utf-8-sig"))))) == 10


def test_an_audit_that_cannot_be_judged_can_be_left(run_app, monkeypatch):
    from clipdemo.errors import CheckpointError
    from clipdemo.ui import audits

    def broken(*_):
        raise CheckpointError("no background")

    monkeypatch.setattr(audits, "judge", broken)
    page = open_page(run_app)
    next(button for button in page.button if button.label.startswith("Try an example")).click().run()
    assert "no background" in page.error[0].value
    next(button for button in page.button if button.label == "Start again").click().run()
    assert any(button.label.startswith("Try an example") for button in page.button)
