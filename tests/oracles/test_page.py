"""The labelling page's server: who may talk to it, what it takes, and that a vote is on disk before the answer."""

import json
import logging
import socket
import threading
import time
import urllib.request
from http.cookiejar import CookieJar

import pytest
from starlette.testclient import TestClient

from rmjax import jsonl
from rmjax.errors import UserError
from rmjax.oracles.journal import Entry
from rmjax.oracles.page import LARGEST, Server, application

PORT, TOKEN = 8123, "the-token"
ORIGIN = f"http://127.0.0.1:{PORT}"
FROM_PAGE = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
VOTE = {"number": 0, "said": "1", "seconds": 1}


@pytest.fixture
def ann(session):
    return session()


@pytest.fixture
def stranger(ann):
    """A client without the token, of one server."""
    app = application(ann, port=PORT, token=TOKEN)
    return TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=True)


@pytest.fixture
def client(stranger):
    """The client that opened the address."""
    assert stranger.get(f"/?token={TOKEN}").status_code == 303
    return stranger


def post(client, path, body, **headers):
    return client.post(path, json=body, headers=FROM_PAGE | headers)


def test_the_address_works_once(ann):
    app = application(ann, port=PORT, token=TOKEN)
    first, second = (TestClient(app, base_url=ORIGIN, follow_redirects=False) for _ in range(2))
    assert second.get("/?token=wrong").status_code == 403  # and does not spend it
    answer = first.get(f"/?token={TOKEN}")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert first.get("/").status_code == 200
    assert first.get(f"/?token={TOKEN}").headers["location"] == "/"  # the address opened again in the same browser
    assert second.get(f"/?token={TOKEN}").status_code == 403
    assert second.get("/").status_code == 401


def test_nothing_without_the_token(stranger, ann):
    for _ in ("no cookie", "a wrong one"):
        for path in ("/", "/page.js", "/page.css", "/icon.svg", "/state", "/elsewhere"):
            answer = stranger.get(path)
            assert answer.status_code == 401 and "answer-1" not in answer.text, path
        for path in ("/vote", "/undo", "/end"):
            assert post(stranger, path, VOTE).status_code == 401, path
        stranger.cookies.set(f"rmjax-{PORT}", "guess")
    assert ann.done == 0


def test_other_origins_are_refused(client, ann):
    for origin in ("http://evil.example", f"http://127.0.0.1:{PORT + 1}", f"http://localhost:{PORT}", "null"):
        assert post(client, "/vote", VOTE, Origin=origin).status_code == 403, origin
        assert client.get("/state", headers={"Origin": origin}).status_code == 403, origin
    assert client.post("/vote", json=VOTE).status_code == 403  # no origin at all
    assert ann.done == 0


def test_other_sites_are_refused_and_do_not_spend_the_token(stranger):
    for site in ("cross-site", "same-site"):
        assert stranger.get(f"/?token={TOKEN}", headers={"Sec-Fetch-Site": site}).status_code == 403
    assert stranger.get(f"/?token={TOKEN}", headers={"Sec-Fetch-Site": "none"}).status_code == 303


def test_other_hosts_are_refused(client):
    for host in ("evil.example", f"evil.example:{PORT}", "127.0.0.1", f"localhost:{PORT}", ""):
        assert client.get("/state", headers={"Host": host}).status_code == 421, host


def test_no_other_path_is_served(client):
    outside = ("/../journal.py", "/..%2f..%2fjournal.py", "/%2e%2e/session.py", "//etc/passwd")
    for path in (*outside, "/page.py", "/static/page.js", "/page.js/"):
        answer = client.get(path)
        assert answer.status_code in (404, 307) and "import" not in answer.text, path
        assert answer.headers["content-security-policy"].startswith("default-src 'none'"), path


def test_files_and_their_headers(client):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store" and answer.headers["referrer-policy"] == "no-referrer"
        assert "http://" not in answer.text.replace("http://www.w3.org", "") and "https://" not in answer.text
    assert client.post("/", headers=FROM_PAGE).status_code == 405


def test_the_state_is_blind(client, ann, pairs):
    state = client.get("/state").json()
    assert state["pair"]["answers"] == list(ann.current.answers)
    assert state["pair"]["prompt"][1] == {"role": "user", "content": "Question 0?"}
    assert (state["by"], state["done"], state["total"], state["last"]) == ("ann", 0, 10, None)
    assert pairs[0].id not in json.dumps(state)


def test_a_vote_is_on_disk_before_the_answer(client, tmp_path):
    file = tmp_path / "ann.jsonl"
    for number in range(3):
        assert post(client, "/vote", {"number": number, "said": "1", "seconds": 1.5}).json()["done"] == number + 1
        assert len(jsonl.read(file, Entry)) == number + 1
    assert post(client, "/vote", {"number": 2, "said": "1", "seconds": 9}).status_code == 200  # said twice
    assert post(client, "/vote", {"number": 2, "said": "2", "seconds": 9}).status_code == 409
    assert len(jsonl.read(file, Entry)) == 3
    state = post(client, "/undo", {"number": 2}).json()
    assert (state["done"], state["pair"]["number"], state["last"]) == (2, 2, 1)
    assert jsonl.read(file, Entry)[-1].withdrawn


def test_a_full_disk_is_said_and_nothing_is_counted(client, ann, monkeypatch):
    def full(*_):
        raise UserError("votes.jsonl: cannot be written (No space left on device)")

    monkeypatch.setattr(jsonl.Appender, "append", full)
    answer = post(client, "/vote", {"number": 0, "said": "1", "seconds": 1})
    assert answer.status_code == 507 and "No space left" in answer.text and ann.done == 0


def test_bodies_that_are_no_vote(client, ann):
    bodies = [b"", b"{", b"[]", b"\xff\xfe", b"[" * 500, b'{"number": 0}']
    numbers = (b'"0"', b"true", b"99", b"-1", b"1" * 400)
    bodies += [b'{"number": %b, "said": "1", "seconds": 1}' % number for number in numbers]
    bodies += [b'{"number": 0, "said": %b, "seconds": 1}' % said for said in (b'"first"', b'["1"]')]
    times = (b"NaN", b"-1", b"1e999", b"1" * 400, b"true")
    bodies += [b'{"number": 0, "said": "1", "seconds": %b}' % seconds for seconds in times]
    for body in bodies:
        answer = client.post("/vote", content=body, headers=FROM_PAGE | {"Content-Type": "application/json"})
        assert answer.status_code == 400 and ann.done == 0, body


def test_large_bodies_and_other_kinds(client, ann):
    large = b'{"number": 0, "said": "1", "seconds": 1' + b" " * LARGEST + b"}"
    as_json = FROM_PAGE | {"Content-Type": "application/json"}
    assert client.post("/vote", content=large, headers=as_json).status_code == 413
    parts = (large[i : i + 100] for i in range(0, len(large), 100))  # without a length that tells
    assert client.post("/vote", content=parts, headers=as_json).status_code == 413
    assert (
        client.post("/vote", content=large[:39] + b"}", headers=FROM_PAGE | {"Content-Type": "text/plain"}).status_code
        == 415
    )
    assert ann.done == 0


def test_it_serves_on_this_machine_only_until_it_is_ended(ann, caplog):
    server = Server(ann)
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    assert server.address.startswith("http://127.0.0.1:")
    port = int(server.address.split(":")[2].split("/")[0])
    with pytest.raises(UserError, match=f"--port {port}: cannot be used"):
        Server(ann, port=port)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    with socket.socket() as other, pytest.raises(OSError):
        other.connect(("127.0.0.2", port))
    jar = CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    assert b"Which answer is better?" in opener.open(server.address, timeout=20).read()
    cookie = "; ".join(f"{c.name}={c.value}" for c in jar)
    with socket.create_connection(("127.0.0.1", port)) as other:  # gone in the middle of a body
        head = ["POST /vote HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Origin: http://127.0.0.1:{port}"]
        head += [f"Cookie: {cookie}", "Content-Type: application/json", "Content-Length: 99", "", "{"]
        other.sendall("\r\n".join(head).encode())
        time.sleep(0.1)
    end = urllib.request.Request(f"http://127.0.0.1:{port}/end", b"{}", {"Origin": f"http://127.0.0.1:{port}"})
    assert opener.open(end, timeout=20).status == 200
    deadline = time.time() + 20
    while thread.is_alive() and time.time() < deadline:
        time.sleep(0.02)
    assert not thread.is_alive()
    assert not caplog.records and ann.done == 0
