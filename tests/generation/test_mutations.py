"""What a small change to the journal would break: which of two answers counts, and what is asked again."""

from pathlib import Path

import pytest

from logreasoner.generation.response_cache import Journal, endpoints, request

URL = "http://127.0.0.1:9/v1"
ASKED = request("a", "m", "rationale", "why?", vllm=False)


def response(status: int, text: str = "") -> dict[str, object]:
    body = {"choices": [{"finish_reason": "stop", "message": {"content": text}}]} if status == 200 else {"error": "no"}
    return {"id": None, "response": {"status_code": status, "body": body}, "error": None}


def text_in(journal: Journal) -> str:
    line = journal.answer(ASKED)
    assert line is not None
    return str(line["response"]["body"]["choices"][0]["message"]["content"])


def test_the_first_answer_counts_whatever_comes_later(workdir: Path) -> None:
    """Else a file that was made from it would differ from one that is made again."""
    journal = Journal(Path("x.journal.jsonl"), endpoints(URL))
    for late in (response(500), response(200, "first"), response(200, "second"), response(500)):
        journal.add((ASKED, late), address=URL)
    assert text_in(journal) == text_in(Journal(journal.path, endpoints(URL))) == "first"


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 429, 500, 502, 503, 529])
def test_what_another_try_may_answer_is_no_answer(status: int, workdir: Path) -> None:
    """Too many requests, a wrong key, a server that fails: nothing about this request."""
    journal = Journal(Path("x.journal.jsonl"), endpoints(URL))
    journal.add((ASKED, response(status)), address=URL)
    assert journal.answer(ASKED) is None and Journal(journal.path, endpoints(URL)).answer(ASKED) is None
    journal.add((ASKED, response(200, "late")), address=URL)
    assert text_in(journal) == "late"
