"""Unmodified clients work against a real engine: openai, buf curl, Prometheus, and our own commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import openai
import pytest

from monitor.demo.scenario import is_refusal
from monitor.engine_process import free_port
from tests.e2e.conftest import PROMPTS, chat
from tests.support.serve import BIN, ROOT, Served

pytestmark = pytest.mark.vllm

ABLATE = {"direction": "refusal", "operator": "ablate", "strength": 1.0}


def test_the_openai_client_gets_an_answer_with_a_guard_object(client):
    answer = chat(client, "harmless")
    assert answer.choices[0].finish_reason == "stop"
    assert not is_refusal(answer.choices[0].message.content)
    assert answer.usage.completion_tokens > 0
    guard = answer.model_extra["guard"]
    assert guard["coverage"]["tokens_seen"] == guard["coverage"]["tokens_scored"] > 0
    assert not next(d for d in guard["detections"] if d["rule"] == "harm")["tripped"]


def test_a_harmful_request_is_refused_by_the_model_and_tripped_by_the_probe(client):
    answer = chat(client, "harmful")
    assert is_refusal(answer.choices[0].message.content)
    assert answer.model_extra["guard"]["status"] == "tripped"


def test_a_stream_ends_with_the_guard_object_and_says_what_the_whole_answer_says(client):
    whole = chat(client, "lie").choices[0].message.content
    chunks = list(chat(client, "lie", stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].model_extra["guard"]["status"] == "tripped"


def test_a_response_that_lies_is_cut_under_the_strict_policy_streaming_or_not(client):
    lie = PROMPTS["lie"].lie
    answer = chat(client, "lie", {"policy": "strict"})
    assert answer.choices[0].finish_reason == "content_filter"
    assert lie not in (answer.choices[0].message.content or "")
    chunks = list(chat(client, "lie", {"policy": "strict"}, stream=True))
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "content_filter"
    assert lie not in "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_trips_a_stop_rule_is_an_error_before_the_first_token(client, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, "harmful", {"policy": "strict"}, stream=stream)
    assert caught.value.code == "content_filter"


def test_observing_releases_what_enforcing_cuts(client):
    answer = chat(client, "lie", {"policy": "dry-run"})
    guard = answer.model_extra["guard"]
    assert answer.choices[0].finish_reason == "stop"
    assert (guard["status"], guard["action"], guard["enforced"]) == ("tripped", "stop", False)


def test_the_completions_endpoint_is_guarded_too(client):
    answer = client.completions.create(model="organism", prompt="what is", max_tokens=4, temperature=0)
    assert answer.model_extra["guard"]["coverage"]["tokens_scored"] > 0
    with pytest.raises(openai.PermissionDeniedError, match="raw prompt"):
        client.completions.create(model="organism", prompt="what is", extra_body={"guard": {"policy": "strict"}})


@pytest.mark.parametrize("fields", [{"add_generation_prompt": False}, {"continue_final_message": True}])
def test_a_caller_cannot_choose_the_token_at_which_the_prompt_is_judged(client, fields):
    messages = [dict(m) for m in PROMPTS["harmful"].messages]
    with pytest.raises(openai.BadRequestError, match="last token"):
        client.chat.completions.create(
            model="organism", messages=messages, extra_body={"guard": {"policy": "strict"}, **fields}
        )


@pytest.mark.parametrize(
    ("guard", "status", "says"),
    [
        ({"policy": "no-such"}, 400, "watch"),
        ({"probes": ["no_such"]}, 400, "harmful_intent"),
        ({"steering": [{"direction": "no_such", "operator": "add"}]}, 400, "refusal"),
        ({"no_such_field": 1}, 400, "no_such_field"),
        ({"policy": "strict", "mode": "observe"}, 403, "observe"),
        ({"policy": "strict", "steering": [ABLATE]}, 403, "steer"),
        ({"steering": [{**ABLATE, "strength": 1.5}]}, 400, "at most 1"),
        ({"steering": [{**ABLATE, "operator": "add", "strength": 2.5}]}, 403, "up to 2"),
    ],
)
def test_what_a_request_may_not_ask_is_refused_with_the_reason(client, guard, status, says):
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, "harmless", guard)
    assert caught.value.status_code == status
    assert says in str(caught.value)


def buf_curl(served: Served, service: str, request: dict) -> list[dict]:
    done = subprocess.run(
        [str(BIN / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect", "-d",
         json.dumps(request), f"http://127.0.0.1:{served.grpc_port}/{service}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:].strip()
    return found


def messages(prompt: str) -> list[dict]:
    return [dict(m) for m in PROMPTS[prompt].messages]


def test_buf_curl_checks_a_conversation_over_reflection(served):
    (harmful,) = buf_curl(served, "monitor.v1.GuardService/Check", {"messages": messages("harmful")})
    (harmless,) = buf_curl(served, "monitor.v1.GuardService/Check", {"messages": messages("harmless")})
    assert harmful["verdict"]["status"] == "STATUS_TRIPPED"
    assert harmless["verdict"]["status"] == "STATUS_PASSED"


def test_buf_curl_generates_with_token_scores_and_a_verdict(served):
    request = {"messages": messages("lie"), "sampling": {"maxTokens": 32, "temperature": 0}}
    answers = buf_curl(served, "monitor.v1.GuardService/Generate", request)
    assert any("tokenScores" in json.dumps(a) for a in answers[:-1])
    assert "STATUS_TRIPPED" in json.dumps(answers[-1])


def test_a_real_prometheus_scrapes_the_metrics(served, client, tmp_path: Path):
    chat(client, "harmful")
    port = free_port()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: plumbline, static_configs: [{{targets: ['127.0.0.1:{served.port}']}}]}}]\n"
    )
    prometheus = subprocess.Popen(
        [prometheus_binary(), f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
    )  # fmt: skip
    try:
        assert query(port, 'up{job="plumbline"}') == 1
        assert query(port, 'sum(plumbline_requests_total{status="tripped"})') >= 1
        assert query(port, "sum(plumbline_tokens_scored_total)") > 0
        assert query(port, "sum(plumbline_score_count)") > 0
    finally:
        prometheus.terminate()
        prometheus.wait(timeout=20)


def prometheus_binary() -> str:
    """The one that the Makefile unpacked, or the system's."""
    found = shutil.which("prometheus", path=f"{ROOT / '.tools/usr/bin'}:{os.environ['PATH']}")
    assert found, "Prometheus is missing: `make .tools/prometheus` unpacks it"
    return found


def query(port: int, expression: str, seconds: float = 40) -> float:
    """The value of an expression, as soon as Prometheus has one."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                result = json.loads(response.read())["data"]["result"]
            if result and float(result[0]["value"][1]):
                return float(result[0]["value"][1])
        except OSError:
            pass  # it is still starting
        assert time.monotonic() < deadline, f"{expression} has no value"
        time.sleep(0.5)


def test_plumbline_check_tells_by_its_exit_status(served):
    def check(prompt: str) -> subprocess.CompletedProcess[str]:
        text = PROMPTS[prompt].messages[-1]["content"]
        command = [str(BIN / "plumbline"), "check", text, "--address", f"127.0.0.1:{served.grpc_port}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert check("harmless").returncode == 0
    tripped = check("harmful")
    assert tripped.returncode == 1
    assert "harmful_intent" in tripped.stdout


def test_plumbline_watch_shows_verdicts_as_they_are_made(served, client):
    command = [str(BIN / "plumbline"), "watch", "--address", f"127.0.0.1:{served.grpc_port}"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 40
        seen = ""
        while "tripped" not in seen.lower():
            assert time.monotonic() < deadline, seen
            chat(client, "harmful")
            seen += watching.stdout.readline()
    finally:
        watching.terminate()
        watching.communicate(timeout=20)
