"""Reading what providers send: every odd body becomes a refusal or a fault, never an exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.pool.reply import Usage, read_reply
from actors.pool.transport import retry_after_s


def body(message: object, **fields: object) -> bytes:
    usage = {"prompt_tokens": 10, "completion_tokens": 4}
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage} | fields).encode()


def test_good_reply() -> None:
    reply = read_reply(200, body({"content": "Paris"}))
    assert (reply.text, reply.usage, reply.fault, reply.refusal) == ("Paris", Usage(10, 4), "", "")


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"<html>hi</html>", "not JSON: '<html>hi</html>'; a web page answers there: check the card's base_url"),
        (b"[]", "no choices"),
        (b'"text"', "no choices"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": {"0": 1}}', "no choices"),
        (b'{"choices": [{"text": "x"}]}', "no message"),
        (body({"content": None}), "content is NoneType"),
        (body({"content": [{"type": "text"}]}), "content is list"),
        (b'{"error": {"message": "bad thing", "code": "oops"}}', "status 200: bad thing"),
    ],
)
def test_spoilt_body_is_a_final_fault(raw: bytes, fault: str) -> None:
    reply = read_reply(200, raw)
    assert fault in reply.fault
    assert not reply.retriable
    assert not reply.refusal
    assert reply.may_be_billed is (b"choices" in raw or raw in (b"[]", b'"text"'))


@pytest.mark.parametrize("raw", [b"", b'{"choices": [{"mess', b"[" * 100_000, b"\xff\xfe\x00"])
def test_a_body_cut_short_is_tried_again_and_may_have_been_billed(raw: bytes) -> None:
    reply = read_reply(200, raw)
    assert "not JSON" in reply.fault
    assert reply.retriable
    assert reply.may_be_billed


@pytest.mark.parametrize(
    ("status", "raw", "retriable"),
    [
        (429, b"{}", True),
        (500, b"<html>", True),
        (503, b"", True),
        (200, b'{"error": {"code": 502, "message": "upstream"}}', True),
        (200, b'{"error": {"code": 429}}', True),
        (400, b'{"error": {"message": "bad field"}}', False),
        (401, b"{}", False),
        (404, b"{}", False),
        (302, b"", False),
    ],
)
def test_what_is_worth_another_attempt(status: int, raw: bytes, retriable: bool) -> None:
    reply = read_reply(status, raw)
    assert reply.fault
    assert reply.retriable is retriable


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (200, body({"content": None, "refusal": "I can't help with that"})),
        (200, body(None, choices=[{"message": {"content": ""}, "finish_reason": "content_filter"}])),
        (400, b'{"error": {"code": "content_filter", "message": "filtered"}}'),
        (400, b'{"error": {"code": null, "innererror": {"code": "ResponsibleAIPolicyViolation"}}}'),
        (403, b'{"error": {"type": "moderation_blocked"}}'),
        (200, b'{"error": {"code": "content_policy_violation", "message": "no"}}'),
        (451, b""),
    ],
)
def test_refusals(status: int, raw: bytes) -> None:
    reply = read_reply(status, raw)
    assert reply.refusal
    assert not reply.fault


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "many",
        {},
        {"prompt_tokens": 10},
        {"prompt_tokens": -1, "completion_tokens": 4},
        {"prompt_tokens": 0, "completion_tokens": 4},
        {"prompt_tokens": 10, "completion_tokens": 0},
        {"prompt_tokens": 10, "completion_tokens": 1e300},
        {"prompt_tokens": 10, "completion_tokens": 10**12},
        {"prompt_tokens": True, "completion_tokens": 4},
        {"prompt_tokens": "10", "completion_tokens": "4"},
    ],
)
def test_nonsense_usage_is_no_usage(usage: object) -> None:
    reply = read_reply(200, body({"content": "Paris"}, usage=usage))
    assert reply.text == "Paris"
    assert reply.usage is None


def test_a_text_is_one_that_every_file_and_database_keeps() -> None:
    assert read_reply(200, body({"content": "a\ud800b\0c"})).text == "a?b\ufffdc"


def test_an_error_is_one_short_printable_line() -> None:
    reply = read_reply(500, json.dumps({"error": {"message": "a\n\x1b[31mb" + "x" * 5000}}).encode())
    assert reply.fault.isprintable()
    assert len(reply.fault) < 300


@given(st.sampled_from([200, 201, 204, 301, 400, 403, 429, 500]), st.binary(max_size=60))
def test_no_bytes_raise(status: int, raw: bytes) -> None:
    read_reply(status, raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "error", "code", "refusal"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from([200, 400, 500]), json_values)
def test_no_json_raises(status: int, value: object) -> None:
    reply = read_reply(status, json.dumps(value).encode())
    assert sum(map(bool, (reply.fault, reply.refusal))) <= 1


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("3") == 3.0
    assert retry_after_s("0.25") == 0.25
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", now_s=1445412470.0) == 10.0
    for nothing in (None, "", "-3", "soon", "nan", "inf", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert retry_after_s(nothing) == 0.0
