"""Asks the installation for a cited answer from a document of its own, and takes the document back: `helm test`."""
# ruff: noqa: INP001, T201  a program, not a module of a package; what it prints is the test's log

import json
import os
import sys
import time
import urllib.request
from typing import Any

URL, KEY = os.environ["PENSTOCK_URL"], os.environ["PENSTOCK_API_KEY"]  # noqa: TID251  a program of one file
NAME = f"helm-test-{int(time.time())}"
BASE = f"/v1/knowledge-bases/{NAME}"
TEXT = "The penstock of the Aurora plant is 412 metres long and was closed for inspection in March."
QUESTION = "How long is the penstock of the Aurora plant?"


def call(method: str, path: str, body: Any = None) -> Any:
    """Return what the gateway answers; raise urllib's errors where it refuses."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, content, headers, method=method)  # noqa: S310  the chart writes the address
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return json.loads(answer.read() or b"{}")


def mistakes(answer: Any) -> list[str]:
    """Return what is wrong with an answer."""
    found = {
        "it does not hold the fact": "412" not in answer["answer"],
        "it does not cite its document": all(each["document_id"] != "aurora" for each in answer["citations"]),
        "it is degraded": bool(answer["degradations"]),
    }
    return [mistake for mistake, is_so in found.items() if is_so]


def main() -> None:
    """Take in, ask, take back; exit with 1 where the answer is wrong."""
    documents = [{"id": "aurora", "media_type": "text/plain", "text": TEXT}]
    print("taken in:", json.dumps(call("POST", f"{BASE}/documents", {"documents": documents})))
    try:
        answer = call("POST", "/v1/ask", {"knowledge_base": NAME, "question": QUESTION})
        print("answered:", json.dumps(answer))
        wrong = mistakes(answer)
    finally:
        call("DELETE", BASE)
    if wrong:
        sys.exit("the answer is wrong: " + "; ".join(wrong))
    print("models:", ", ".join(model["id"] for model in call("GET", "/v1/models")["data"]))


main()
