"""Background work of a session: served in slices, on every page, until it is finished."""

import pytest
from streamlit.testing.v1 import AppTest


def script():
    """A page that counts; what it does is said by the session."""
    import streamlit as st

    from clipdemo.scoring.prompts import Templates
    from clipdemo.ui import jobs, state
    from clipdemo.ui.workspace import workspace

    class Counting(jobs.Job):
        page = "counting"

        def __init__(self, last, names=()):
            super().__init__()
            self.count, self.last, self.names = 0, last, names

        def checkpoints(self):
            return self.names

        @property
        def finished(self):
            return self.cancelled or self.count == self.last

        def step(self):
            if self.finished or self.last is None:
                return False
            self.count += 1
            return True

        def progress(self):
            return jobs.Progress((self.count or 0) / (self.last or 10), f"counted to {self.count}")

        def outcome(self):
            return f"Counted to {self.count}."

    view = state.View(None, (), (), Templates(), "embedded", ())
    ask = st.session_state.pop("ask", "")
    if ask == "count":
        jobs.submit("count", Counting(3))
    elif ask == "stall":
        jobs.submit("count", Counting(None))
    elif ask == "page":
        st.session_state["handed over"] = [Counting(3, ("a", "b")), Counting(2), Counting(4, ("c",))]
        view.jobs.extend(st.session_state["handed over"])
    elif ask == "cancel":
        jobs.find("count").cancel()

    def draw():
        job = jobs.find("count")
        st.text(f"{job.count} of {job.last}" if job else "no job")

    jobs.run(draw, view.jobs, state.engine().loader, workspace(), page=st.session_state.get("page", ""))


@pytest.fixture
def app(run_app):
    run_app()
    return AppTest.from_function(script, default_timeout=60)


def asked(app, ask, page=""):
    app.session_state["ask"], app.session_state["page"] = ask, page
    app.run()
    assert not app.exception
    return app


def test_a_job_goes_on_until_it_is_finished_and_the_page_shows_its_result(app):
    assert asked(app, "count", "counting").text[0].value == "3 of 3"
    assert not app.toast  # its own page says so


def test_a_job_that_finished_is_announced_once_on_another_page(app):
    asked(app, "count", "elsewhere")
    assert [toast.value for toast in app.toast] == ["Counted to 3."]
    assert not asked(app, "", "elsewhere").toast


def test_progress_shows_on_every_page_and_a_job_that_waits_does_not_run_the_script_again(app):
    for page in ("counting", "elsewhere"):
        (bar,) = asked(app, "stall", page).sidebar.get("progress")
        assert bar.proto.text == "counted to 0"


def test_a_cancelled_job_keeps_what_is_done(app):
    asked(app, "stall")
    assert asked(app, "cancel", "counting").text[0].value == "0 of None"
    assert not app.sidebar.get("progress")


def test_work_handed_over_ends_with_its_run_and_the_pages_own_job_gets_the_checkpoints(app):
    asked(app, "page")
    jobs = app.session_state["handed over"]
    assert [job.count for job in jobs] == [3, 2, 4]
    assert [job.granted for job in jobs] == [False, False, True]  # the last one handed over is the page's
    assert app.session_state["claimed"] == ("c",)
