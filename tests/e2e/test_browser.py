"""A person at Prefect's UI: opens the suspended run, reads, fills in the form, resumes, and it is promoted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, sync_playwright

from sundial.operations.prefect_api import FlowRun
from sundial.operations.status import wait_for_version
from sundial.release.approval import decisions
from tests.e2e.conftest import ENDED, System

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(600)]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 30_000  # milliseconds, on a machine that also runs the servers


@pytest.fixture
def page() -> Iterator[Page]:
    """Open a tab of a real headless Chromium that reaches nothing but this machine."""
    if CHROMIUM is None:
        message = "no Chromium on this machine: the form in Prefect's UI is NOT tested (Debian: apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_page(viewport={"width": 1400, "height": 1100})
        tab.set_default_timeout(PATIENCE)
        yield tab
        browser.close()


def field(page: Page, label: str) -> Locator:
    """Find a field of the form by the words above it."""
    return page.locator(".schema-form-property").filter(has=page.get_by_text(label, exact=True))


def choose(page: Page, label: str, choice: str) -> None:
    """Choose from a list as a person does: open it at its arrow, and click.

    Prefect's dialog takes the focus back from a list that was opened by a click beside the arrow, which closes it.
    """
    field(page, label).locator(".p-select-button__icon").click()
    page.locator(".p-select-option").filter(has_text=choice).click()


def submit(system: System, page: Page, question: FlowRun) -> None:
    """Press Submit, and again where Prefect's SQLite was busy: the dialog stays open then, with what was filled in."""
    for _ in range(3):
        page.get_by_role("button", name="Submit").click()
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if system.api.read(question).state != "PAUSED":
                return
            time.sleep(0.2)
        if page.get_by_role("button", name="Submit").count() == 0:
            break
    pytest.fail("the answer did not arrive: " + page.locator("body").inner_text()[:2000])


def test_a_person_approves_in_the_browser_and_the_model_server_follows(system: System, in_production: int, page: Page):
    """The form shows the evidence and links the report; filled in and resumed there, the candidate is promoted."""
    run, question = system.candidate("2013-11-25")
    page.goto(system.api.link(question))
    page.get_by_role("button", name="Resume").first.click()

    form = page.get_by_role("dialog").or_(page.locator(".p-modal__box, .p-modal")).first
    form.get_by_text("Late parcels: candidate of 2013-11-25").wait_for()
    assert form.get_by_role("table").count() > 0
    assert form.get_by_text("value per 1000").count() > 0
    with page.context.expect_page() as opened:
        form.get_by_role("link", name="all of it as a page").click()
    report = opened.value
    report.get_by_role("heading", level=1).wait_for()
    assert "2013-11-25" in report.get_by_role("heading", level=1).inner_text()
    report.close()

    choose(page, "Decision", "approve")
    choose(page, "Name", "reviewer")
    field(page, "Reason").locator("textarea").fill("read in the browser, and it holds")
    submit(system, page, question)

    ended = system.wait(question, ENDED)
    assert "COMPLETED" == ended.state, ended.message
    version = system.production()
    assert version > in_production
    wait_for_version(system.settings, str(version))
    (decision,) = decisions(run)
    assert ("approve", "reviewer") == (decision.decision, decision.name)
    assert "read in the browser, and it holds" == decision.reason
    page.get_by_text("Completed").first.wait_for()  # the tab shows it without a reload


def test_an_empty_form_is_not_accepted(system: System, in_production: int, page: Page):
    """Nothing is decided by pressing Submit on an empty form: the question stays open, and says what is missing."""
    before = system.production()
    _, question = system.candidate("2013-12-16")
    page.goto(system.api.link(question))
    page.get_by_role("button", name="Resume").first.click()
    form = page.get_by_role("dialog").or_(page.locator(".p-modal__box, .p-modal")).first
    form.get_by_role("button", name="Submit").click()

    form.get_by_text("required").first.wait_for()
    assert "PAUSED" == system.api.read(question).state
    assert before == system.production()
