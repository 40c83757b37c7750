"""The addresses of the page, asked as its scripts ask them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from asyncgen.finetune.api import Event
from asyncgen.json_text import decode_json
from asyncgen.run.state import FinetuningState

if TYPE_CHECKING:
    from playwright.sync_api import Page

MakeRun = Callable[..., Any]
KEY = "sk-canary-9876543210fedcba"


class Api:
    """A client that has opened the page."""

    def __init__(self, served: Any) -> None:
        self._port = served.port
        parts = urlsplit(served.link)
        launched = self.get(f"{parts.path}?{parts.query}")
        self._cookie = str(launched.headers["Set-Cookie"]).partition(";")[0]
        self.token = decode_json(self.get("/api/session").text)["token"]

    def connect(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPConnection:
        """A connection whose answer is still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        sent = {"Cookie": getattr(self, "_cookie", ""), **headers}
        if body is not None:
            sent |= {"Content-Type": "application/json", "X-Asyncgen": self.token}
        connection.request(method, path, json.dumps(body) if body is not None else None, sent)
        return connection

    def _whole(self, connection: http.client.HTTPConnection) -> Any:
        with closing(connection):
            response = connection.getresponse()
            response.text = response.read().decode()  # type: ignore[attr-defined]
            return response

    def get(self, path: str, **headers: str) -> Any:
        return self._whole(self.connect("GET", path, **headers))

    def post(self, path: str, body: Any) -> Any:
        return self._whole(self.connect("POST", path, body))


@pytest.fixture
def api(make_run: MakeRun, serve_page: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    run = make_run(rows=3)
    run.add(run.failure(3))
    client = Api(serve_page(run))
    client.run = run  # type: ignore[attr-defined]
    return client


def test_counters_that_did_not_change_are_not_sent_again(api: Any) -> None:
    first = api.get("/api/runs/adverts/counters")
    tag = first.headers["ETag"]
    assert api.get("/api/runs/adverts/counters", **{"If-None-Match": tag}).status == 304
    api.run.add(api.run.record(4))
    again = api.get("/api/runs/adverts/counters", **{"If-None-Match": tag})
    assert (again.status, decode_json(again.text)["counts"]["done"]) == (200, 4)


def test_the_stream_tells_counters_with_an_offset_and_never_a_row(api: Any) -> None:
    connection = api.connect("GET", "/api/runs/adverts/stream")
    stream = connection.getresponse()
    assert stream.headers["Content-Type"] == "text/event-stream"

    def event() -> tuple[str, dict[str, Any]]:
        lines = [stream.readline().decode() for _ in range(3)]
        return lines[0].removeprefix("id: ").strip(), decode_json(lines[1].removeprefix("data: "))

    identifier, counters = event()
    assert counters["counts"] == {"done": 3, "failed": 1, "rejected": 0, "stale": 0}
    size = sum(path.stat().st_size for path in (api.run.directory.records, api.run.directory.failures))
    assert identifier.endswith(f"-{size}")
    api.run.add(api.run.record(5))
    later, counters = event()
    assert (counters["counts"]["done"], later != identifier) == (4, True)
    assert "cheerful" not in json.dumps(counters)
    stream.close()
    connection.close()


ADDRESSES = [
    "/", "/api/session", "/api/runs", "/api/runs/adverts/counters", "/api/runs/adverts/overview",
    "/api/runs/adverts/heat", "/api/runs/adverts/records", "/api/runs/adverts/training",
    "/api/runs/adverts/evaluations", "/api/runs/adverts/playground",
]  # fmt: skip


def test_no_address_tells_the_key(api: Any) -> None:
    key = api.run.record(0).key
    for path in [*ADDRESSES, f"/api/runs/adverts/records/{key}", f"/api/runs/adverts/records/{key}/similar"]:
        response = api.get(path)
        assert response.status == 200, path
        assert KEY not in response.text + str(response.headers), path


@pytest.mark.parametrize(
    "path",
    [
        "records?offset=-1", "records?offset=x", "records?count=1e9", "records?sort=nothing", "heat?x=nothing",
        "heat?x=city&y=nothing", "records/zz", "records/../../etc", "evaluations/none", "nothing",
    ],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_answered_with_what_is_wrong(api: Any, path: str) -> None:
    response = api.get(f"/api/runs/adverts/{path}")
    assert response.status in {400, 404}
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    "body",
    [
        {}, [], "text", {"action": "burn", "query": {}}, {"action": "reject"}, {"action": "reject", "key": "zz"},
        {"action": "reject", "query": {"status": "done"}}, {"action": "reject", "query": {}, "more": 1},
        {"action": "reject", "query": {}, "expected": 99},
    ],
)  # fmt: skip
def test_a_decision_that_makes_no_sense_changes_nothing(api: Any, body: Any) -> None:
    assert api.post("/api/runs/adverts/review", body).status == 400
    assert not (api.run.path / "reviewed.jsonl").exists()


def test_a_decision_on_all_rows_leaves_failed_ones_as_they_are(api: Any) -> None:
    answer = decode_json(api.post("/api/runs/adverts/review", {"action": "reject", "query": {}}).text)
    assert answer["count"] == 3
    assert answer["counters"]["counts"] == {"done": 0, "failed": 1, "rejected": 3, "stale": 0}
    assert decode_json(api.post("/api/runs/adverts/undo", {}).text)["counters"]["counts"]["done"] == 3
    assert api.post("/api/runs/adverts/undo", {}).status == 400


def test_a_row_tells_where_it_stands_in_its_filter(api: Any) -> None:
    key = api.run.record(1).key
    found = decode_json(api.get(f"/api/runs/adverts/records?sort=oldest&status=done&row={key}").text)
    assert (found["position"], found["total"]) == (1, 3)
    assert decode_json(api.get(f"/api/runs/adverts/records?status=failed&row={key}").text)["position"] is None


def test_a_run_whose_files_are_gone_is_told(api: Any) -> None:
    api.run.directory.state.unlink()
    response = api.get("/api/runs/adverts/counters")
    assert response.status in {400, 404}
    assert "run.json" in response.text


def test_the_jobs_of_a_run_come_newest_first_with_their_curves(api: Any) -> None:
    def tuning(job_id: str) -> FinetuningState:
        return FinetuningState(
            intent=job_id, provider="local", base_url="", model="m", training_file="f", job_id=job_id, status="running"
        )

    api.run.change_state(finetuning=[tuning("one"), tuning("two")])
    told = [Event(job="one", id="0", created_at=1, message="Created")]
    told += [
        Event(
            job="one", id=str(n), created_at=n, type="metrics", data={"step": n, "train_loss": 1 / n, "valid_loss": 2.0}
        )
        for n in range(1, 6)
    ]
    from msgspec.json import encode  # noqa: PLC0415 - only here

    api.run.directory.events.write_bytes(b"".join(encode(event) + b"\n" for event in told))
    jobs = decode_json(api.get("/api/runs/adverts/training").text)["jobs"]
    assert [job["id"] for job in jobs] == ["two", "one"]
    assert jobs[1]["points"][:2] == [[1, 1.0, 2.0], [2, 0.5, 2.0]]
    assert [event["message"] for event in jobs[1]["events"]] == ["Created"]


@pytest.mark.browser
def test_a_training_is_followed_as_its_events_come(make_run: MakeRun, page_of: Callable[..., Page]) -> None:
    from msgspec.json import encode  # noqa: PLC0415 - only here
    from playwright.sync_api import expect  # noqa: PLC0415 - not on every machine

    run = make_run(rows=1)
    job = FinetuningState(intent="i", provider="local", base_url="", model="m", training_file="f", job_id="ftjob-1")
    run.change_state(finetuning=[job])
    page = page_of(run)
    page.keyboard.press("3")
    expect(page.get_by_text("No figures yet")).to_be_visible()
    with run.directory.events.open("ab") as file:
        for step in range(1, 4):
            data = {"step": step, "train_loss": 3.0 - step / 2}
            event = Event(job="ftjob-1", id=str(step), created_at=step, type="metrics", data=data)
            file.write(encode(event) + b"\n")
    expect(page.get_by_role("img", name="Loss by step. ftjob-1: step 3, training loss 1.5")).to_be_visible()
    with run.directory.events.open("ab") as file:
        event = Event(job="ftjob-1", id="4", created_at=4, type="metrics", data={"step": 4, "full_valid_loss": 1.25})
        file.write(encode(event) + b"\n")
    figures = page.get_by_role("region", name="Job ftjob-1").locator("dl.figures")
    expect(figures).to_contain_text("1.25")
    expect(figures).to_contain_text("1.5")
