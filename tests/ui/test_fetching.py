"""Adding a model from the page: nothing unasked, terms before bytes, honest progress, and an end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cxr_assistant.errors import DownloadFailed, NotEnoughDisk
from cxr_assistant.ui.cards import Shelf, fetch_sheet, model_menu
from cxr_assistant.ui.fetching import Fetcher, FetchPhase, FetchView
from cxr_assistant.ui.switchboard import Switchboard
from tests.doubles import StoreDouble
from tests.ui.doubles import EMBEDDED, PUBLISHED, ScriptedAssistant

NAME = PUBLISHED.name


@pytest.fixture
def store() -> StoreDouble:
    return StoreDouble()


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


@pytest.fixture
def assistant(store: StoreDouble) -> ScriptedAssistant:
    return ScriptedAssistant(store=store)


@pytest.fixture
def fetcher(assistant: ScriptedAssistant, board: Switchboard) -> Fetcher:
    return Fetcher(assistant, board)


def last(views: Iterator[FetchView]) -> FetchView:
    *_, final = views
    return final


def html_of(view: FetchView, assistant: ScriptedAssistant) -> str:
    return str(fetch_sheet(view, PUBLISHED, assistant.list_fits(NAME))["html"])


def test_a_plan_shows_bytes_memory_and_terms_and_fetches_nothing(
    fetcher: Fetcher, assistant: ScriptedAssistant, store: StoreDouble
) -> None:
    html = html_of(fetcher.plan(NAME), assistant)
    for words in (
        "4.0 GB to download",
        "12.0 GB of disk",
        "bf16 needs 14.1 GiB of 22.0 GiB free",
        "Research only.",
    ):
        assert words in html
    assert "Accept the licence and fetch" in html
    assert (store.ready, store.accepted) == (set(), set())


def test_a_model_that_is_here_asks_for_its_licence_alone(
    fetcher: Fetcher, assistant: ScriptedAssistant, store: StoreDouble
) -> None:
    store.ready.add(NAME)
    html = html_of(fetcher.plan(NAME), assistant)
    assert "Nothing to download" in html
    assert ">Accept the licence</button>" in html


def test_fetching_accepts_the_licence_and_ends_ready(fetcher: Fetcher, store: StoreDouble) -> None:
    views = list(fetcher.fetch(NAME, "ann"))
    assert (views[0].phase, views[-1].phase) == (FetchPhase.RUNNING, FetchPhase.READY)
    assert (store.ready, store.accepted) == ({NAME}, {NAME})


def test_progress_is_shown_as_it_is_read(fetcher: Fetcher, store: StoreDouble) -> None:
    store.pause_s = 0.5
    sheets = [fetch_sheet(view, PUBLISHED, ()) for view in fetcher.fetch(NAME, "ann")]
    assert (0.25, "Downloading 1.00 of 4.00 GB, 50 MB/s, 60 s left") in [
        (sheet["fraction"], sheet["sentence"]) for sheet in sheets
    ]


def test_while_it_runs_only_the_bar_changes(fetcher: Fetcher, store: StoreDouble) -> None:
    store.pause_s = 0.5
    views = [view for view in fetcher.fetch(NAME, "ann") if view.phase is FetchPhase.RUNNING]
    assert len(views) > 1
    assert len({fetch_sheet(view, PUBLISHED, ())["html"] for view in views}) == 1


def test_cancelling_ends_it_and_keeps_nothing_ready(fetcher: Fetcher, store: StoreDouble) -> None:
    store.pause_s = 30.0
    views = fetcher.fetch(NAME, "ann")
    next(views)
    assert fetcher.stop("ann")
    final = last(views)
    assert final.problem is not None and final.problem.code == "stopped"
    assert store.ready == set()


def test_leaving_the_page_ends_the_fetch(fetcher: Fetcher, store: StoreDouble, board: Switchboard) -> None:
    store.pause_s = 30.0
    views = fetcher.fetch(NAME, "ann")
    next(views)
    views.close()  # type: ignore[attr-defined]
    assert len(board) == 0 and store.ready == set()


@pytest.mark.parametrize(
    "error",
    [
        DownloadFailed("It is gated.", hint="Open the page and click Agree.", code="gated"),
        NotEnoughDisk("27.0 GB are needed; 3.0 GB are free.", hint="Free some space."),
    ],
    ids=["gated", "disk"],
)
def test_a_refusal_is_a_card_with_what_to_do(
    fetcher: Fetcher, assistant: ScriptedAssistant, store: StoreDouble, error: DownloadFailed
) -> None:
    store.error = error
    for view in (fetcher.plan(NAME), last(fetcher.fetch(NAME, "ann"))):
        html = html_of(view, assistant)
        assert error.message in html and error.hint in html and "Try again" in html


def test_an_unexpected_error_tells_nothing_of_its_text(fetcher: Fetcher, store: StoreDouble) -> None:
    store.error = RuntimeError("secret detail")  # type: ignore[assignment]
    problem = last(fetcher.fetch(NAME, "ann")).problem
    assert problem is not None and problem.code == "unexpected" and "secret" not in repr(problem)


def test_a_model_that_is_not_there_is_offered_to_be_fetched_and_not_to_be_used() -> None:
    html = model_menu([EMBEDDED, PUBLISHED], "embedded", Shelf(ready=frozenset({"embedded"})))
    assert f'data-plan="{NAME}"' in html and f'data-model="{NAME}"' not in html


def test_where_fetching_is_off_the_card_says_whose_business_it_is() -> None:
    shelf = Shelf(ready=frozenset({"embedded"}), may_fetch=False)
    html = model_menu([EMBEDDED, PUBLISHED], "embedded", shelf)
    assert "Its owner adds the models." in html and "data-plan" not in html


def test_a_card_shows_what_each_precision_needs_and_keeps_the_choice(assistant: ScriptedAssistant) -> None:
    shelf = Shelf(ready=frozenset({NAME}), fits={NAME: assistant.list_fits(NAME)}, precision="nf4")
    html = model_menu([EMBEDDED, PUBLISHED], NAME, shelf)
    assert "fp32 needs 26.7 GiB of 22.0 GiB free: does not fit" in html
    assert '<option value="nf4" selected>' in html
