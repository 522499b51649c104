"""The result of an audit: figures, flags, the worst pairs, the matrix, and downloads."""

from __future__ import annotations

import io

import pandas as pd
import streamlit as st

from clipdemo.audit import report
from clipdemo.audit.footprint import memory_text, peak_resident_bytes
from clipdemo.audit.judge import FLAGS, Audit, Summary
from clipdemo.errors import TableError
from clipdemo.models import catalogue, load
from clipdemo.output import heatmaps, pictures
from clipdemo.output.files import CsvWriter
from clipdemo.output.heatmaps import Axis
from clipdemo.output.html import data_uri
from clipdemo.scoring.matrix import cosine_sheet
from clipdemo.scoring.retrieval import RetrievalMetrics
from clipdemo.ui import audits, views
from clipdemo.ui.audits import AuditJob
from clipdemo.ui.views import Download, show_downloads

EVERY, FAILED = "every pair", "failed rows"
PAIRS_PER_PAGE = 50
MATRIX_ROWS = 60  # of the heatmap on the page; the picture to download has more


def show(job: AuditJob, audit: Audit, summary: Summary) -> None:
    """Everything a finished audit shows."""
    _headline(job, summary)
    if summary.scored:
        _retrieval(summary)
    _downloads(job, audit, summary)
    _pairs(audit, summary)
    if summary.scored:
        _matrix(audit)
    _footprint(job)


def _headline(job: AuditJob, summary: Summary) -> None:
    stopped = "Stopped early: " if job.cancelled else ""
    if job.failed:
        st.error(f"The audit ended early: {views.plain(job.failed, 500)}", icon=":material/error:")
    st.markdown(
        f"{stopped}**{summary.scored:,} of {summary.rows:,} rows scored** of "
        f"{views.plain(job.table.name, 80)}, under {views.describe(job.encoder.checkpoint)}."
    )
    for item in job.rejected[:20]:
        st.caption(f":orange[{views.plain(item.name, 80)}]: {views.plain(item.reason, 200)}")
    grid = {
        "Failed rows": (f"{summary.failed:,}", "Rows without a score; their error column says why."),
        "Images": (f"{summary.images:,}", "Distinct images: equal files count once."),
        "Captions": (f"{summary.captions:,}", "Distinct captions."),
        "Likely swapped": (
            f"{summary.flags[FLAGS[0]]:,}",
            "Weak pairs that would score higher with captions exchanged with another row, or whose image "
            "and caption both have a strong match elsewhere in the table.",
        ),
        "Weak": (f"{summary.flags[FLAGS[1]]:,}", "Percentile below 80: no better than a random pair."),
        "Duplicates": (f"{summary.flags[FLAGS[2]]:,}", "Rows whose image also appears under another name."),
        "Cut off": (f"{summary.truncated:,}", "Captions longer than the checkpoint reads."),
    }
    views.metric_row(grid)
    st.button("Audit another table", on_click=audits.discard, icon=":material/restart_alt:")


def _retrieval(summary: Summary) -> None:
    st.subheader("Retrieval", anchor=False, help=report.DEFINITION)
    rows = [
        _figures("image → caption", summary.image_to_text),
        _figures("caption → image", summary.text_to_image),
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch")
    part = "" if summary.scored == summary.rows else " Only scored rows count, as queries and as candidates."
    st.caption(f"Both directions search this table only; a larger table is harder.{part}")


def _figures(direction: str, found: RetrievalMetrics[float]) -> dict[str, str]:
    return {
        "direction": direction,
        "queries": f"{found.queries:,}",
        **{f"recall@{k}": f"{100 * value:.1f} %" for k, value in found.recall.items()},
        "MRR": f"{found.mean_reciprocal_rank:.3f}",
        "median rank": f"{found.median_rank:g}",
    }


def _pairs(audit: Audit, summary: Summary) -> None:
    st.subheader("Pairs, worst first", anchor=False)
    options = [EVERY, *(flag for flag in FLAGS if summary.flags[flag]), *([FAILED] if summary.failed else [])]
    chosen = st.pills(
        "Filter", options, default=EVERY, required=True, key="audit-filter", label_visibility="collapsed"
    )
    if chosen == FAILED:
        _failed(audit)
        return
    pairs = [pair for pair in audit.worst().tolist() if chosen == EVERY or chosen in audit.flags[pair]]
    if not pairs:
        st.caption("No row could be scored; the failed rows say why.")
        return
    shown = views.paginate(pairs, PAIRS_PER_PAGE, "audit")
    lines = [_line(audit, pair) for pair in shown]
    columns = {
        "image": st.column_config.ImageColumn("image", width="small"),
        "percentile": st.column_config.ProgressColumn(
            "percentile",
            help="Percent of unrelated pairs that score lower under this checkpoint.",
            min_value=0,
            max_value=100,
            format="%d",
            width="small",
        ),
        "caption": st.column_config.TextColumn("caption", width="medium"),
        "flag": st.column_config.TextColumn("flag", width="medium"),
    }
    st.dataframe(
        pd.DataFrame(lines),
        hide_index=True,
        column_config=columns,
        row_height=64,
        width="stretch",
        key="audit-pairs",
    )


def _line(audit: Audit, pair: int) -> dict[str, object]:
    image = int(audit.pairs[pair, 0])
    return {
        "image": _cell_picture(audit.ledger.thumbnail(image)),
        "percentile": int(audit.percentiles[pair]),
        "caption": audit.caption(pair),
        "cosine": round(float(audit.cosines[pair]), 3),
        "flag": "; ".join(audit.flags[pair]),
        "caption rank": int(audit.rivals.rank_of_caption[pair]),
        "image rank": int(audit.rivals.rank_of_image[pair]),
        "best rival caption": audit.rival_caption(pair),
        "row": int(audit.numbers[pair]) + 1,
        "file": audit.image_name(image),
    }


def _failed(audit: Audit) -> None:
    errors = [(row.number + 1, row.error) for row in audit.ledger.rows() if row.error]
    errors += [
        (n + 1, "not scored: stopped before this row")
        for n in range(audit.ledger.row_count, audit.table.count)
    ]
    st.dataframe(pd.DataFrame(errors, columns=["row", "error"]), hide_index=True, width="stretch")


def _matrix(audit: Audit) -> None:
    values, images, captions = report.matrix(audit, MATRIX_ROWS)
    st.subheader("Every image with every caption", anchor=False)
    thumbnails = [audit.ledger.thumbnail(image) or b"" for image in images]
    strip = data_uri(pictures.thumbnail_strip(thumbnails, 44, down=True)) if all(thumbnails) else None
    names = [audit.ledger.caption_text(caption)[0] for caption in captions]
    few = len(names) <= 6
    rows = Axis([audit.short_name(image) for image in images], strip, 26)
    columns = Axis(names, None, 84 if few else 18, wrapped=few)
    sheet = cosine_sheet(values, decimals=2)
    title = catalogue.title(audit.checkpoint.id)
    figure = heatmaps.heatmap(sheet, rows, columns, title=title, extra=[values])
    # Holds only our own number. A narrow screen scrolls the chart sideways.
    st.html(f"<style>.st-key-audit-cells {{ min-width: {heatmaps.heatmap_width(rows, columns)}px; }}</style>")
    with st.container(key="heatmap", height=640 if len(images) > 20 else "content", border=False):
        st.plotly_chart(
            figure,
            key="audit-cells",
            config={"displayModeBar": False, "typesetMath": False},
            alt=f"Cosines of {len(images)} images and {len(captions)} captions under {title}",
        )
    part = f"The first {MATRIX_ROWS} scored rows. " if len(audit.pairs) > MATRIX_ROWS else ""
    st.caption(f"{part}Where each image has one caption, its own pairs are on the diagonal.")


def _footprint(job: AuditJob) -> None:
    with st.expander("Time and memory"):
        lines = [
            {
                "stage": s.name,
                "seconds of work": round(s.seconds, 2),
                "items": s.items,
                "items a second": round(s.rate, 1),
            }
            for s in job.footprint.stages
        ]
        st.dataframe(pd.DataFrame(lines), hide_index=True, width="stretch")
        memory = memory_text(peak_resident_bytes(), _gpu(job))
        st.caption(
            f"{job.seconds:.1f} seconds in all, on {job.encoder.device}; stages overlap and run in several "
            f"threads. The server's {memory}."
        )


def _downloads(job: AuditJob, audit: Audit, summary: Summary) -> None:
    """Files to take away."""
    downloads = [
        Download("Scored table (CSV)", "output.csv", "text/csv", lambda: output_csv(audit), "table"),
        Download(
            "Report (HTML)",
            "report.html",
            "text/html",
            lambda: report.audit_html(audit, summary, _usage(job)).encode(),
            "description",
        ),
    ]
    if summary.scored:
        downloads += [
            Download(
                "Images and captions (PNG)",
                "image_captions.png",
                "image/png",
                lambda: report.image_captions_png(audit),
                "image",
            ),
            Download(
                "Matrix (PNG)",
                "similarity_matrix.png",
                "image/png",
                lambda: report.similarity_matrix_png(audit),
                "grid_on",
            ),
        ]
    show_downloads(downloads)


def output_csv(audit: Audit) -> bytes:
    """The scored table, with a byte-order mark so that spreadsheets read it right."""
    out = io.StringIO(newline="")
    writer = CsvWriter(out, report.header(audit.table), line_end="\r\n")
    try:
        for row in audit.rows():
            writer.write(row)
    except TableError as error:  # the audit ended here; the rows scored before are kept
        writer.write([str(error)])
    return out.getvalue().encode("utf-8-sig")


def _usage(job: AuditJob) -> report.Usage:
    return report.Usage(
        job.footprint.stages, job.seconds, job.encoder.device, peak_resident_bytes(), _gpu(job)
    )


def _gpu(job: AuditJob) -> int | None:
    return load.peak_gpu_bytes() if job.encoder.device == "cuda" else None


def _cell_picture(thumbnail: bytes | None) -> str:
    """Data URI of a small thumbnail for one cell of a table; dozens of them are sent with every page."""
    return data_uri(pictures.thumbnail_strip([thumbnail], 96, down=True)) if thumbnail else ""
