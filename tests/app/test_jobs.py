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
            st.session_state.setdefault("order", []).append(self.last)
            return True

        def progress(self):
            return jobs.Progress((self.count or 0) / (self.last or 10), f"counted to {self.count}")

        def outcome(self):
            return f"Counted to {self.count}."

    with st.sidebar:
        jobs.reserve_progress()
    view = state.View(None, (), (), Templates(), "embedded", ())
    ask = st.session_state.pop("ask", "")
    if ask == "count":
        jobs.submit("count", Counting(3))
    elif ask == "stall":
        jobs.submit("count", Counting(None))
    elif ask == "page":
        st.session_state["handed over"] = [Counting(3, ("a", "b")), Counting(2), Counting(4, ("c",))]
        view.jobs.extend(st.session_state["handed over"])
    elif ask == "stalling page":
        st.session_state["handed over"] = [Counting(None)]
        view.jobs.extend(st.session_state["handed over"])
    elif ask == "cancel":
        jobs.find("count").cancel()

    def draw():
        job = jobs.find("count")
        if ask == "finish while drawing":  # as a run of the script that overlaps with this one does
            st.text(f"{job.count} of {job.last}")
            job.last = job.count
            return
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


def test_a_job_that_another_run_finished_while_the_page_was_drawn_is_drawn_again(app):
    asked(app, "stall")
    assert asked(app, "finish while drawing", "counting").text[0].value == "0 of 0"


def test_every_step_holds_the_jobs_lock_so_that_an_overlapping_run_waits(app):
    asked(app, "stall")
    job = app.session_state["jobs"]["count"]
    job.last, entered = 5, []
    step = job.step
    job.step = lambda: entered.append(job.lock.locked()) or step()
    assert asked(app, "", "counting").text[0].value == "5 of 5"
    assert entered
    assert all(entered)


def test_jobs_are_served_in_the_order_they_were_handed_over_and_the_pages_own_gets_the_checkpoints(app):
    asked(app, "page")
    jobs = app.session_state["handed over"]
    assert app.session_state["order"] == [3, 3, 3, 2, 2, 4, 4, 4, 4]
    assert [job.granted for job in jobs] == [(), (), ("c",)]
    assert app.session_state["claimed"] == ("c",)


def test_work_handed_over_ends_with_its_run(app):
    asked(app, "stalling page")
    (job,) = app.session_state["handed over"]
    job.last = 3  # from here on it could go on
    asked(app, "")
    assert job.count == 0
