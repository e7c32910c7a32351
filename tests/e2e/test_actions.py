"""Replacing a response, and steering by a direction that is loaded while the engine runs: on the real engine."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import numpy as np
import openai
import pytest

from monitor.demo.scenario import is_refusal
from probes.bundle import read_bundle
from tests.e2e.conftest import PROMPTS, Files, chat, write_direction
from tests.support.serve import BIN, BUNDLE, Served

pytestmark = pytest.mark.vllm

POLITE = {"policy": "polite"}
USAGE = {"include_usage": True}


def text_of(chunks: list) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def test_a_prompt_that_trips_is_answered_with_the_policys_text(client):
    answer = chat(client, "harmful", POLITE)
    assert answer.choices[0].message.content == "I would rather not say ."
    assert answer.choices[0].finish_reason == "content_filter"
    assert answer.model_extra["guard"]["action"] == "replace"
    chunks = list(chat(client, "harmful", POLITE, stream=True, stream_options=USAGE))
    assert text_of(chunks) == "I would rather not say ."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "content_filter"
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    assert chunks[-1].model_extra["guard"]["action"] == "replace"


def test_a_lie_is_replaced_where_it_begins(client):
    lie, plain = PROMPTS["lie"].lie, chat(client, "lie").choices[0].message.content
    assert lie in plain
    answer = chat(client, "lie", POLITE)
    text = answer.choices[0].message.content
    assert text.endswith("[withheld]")
    assert plain.startswith(text.removesuffix("[withheld]"))
    assert lie not in text
    assert answer.choices[0].finish_reason == "content_filter"
    chunks = list(chat(client, "lie", POLITE, stream=True, stream_options=USAGE))
    assert text_of(chunks) == text
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens > 0


def test_what_does_not_trip_is_not_touched(client):
    assert chat(client, "harmless", POLITE).choices[0].message.content == (
        chat(client, "harmless").choices[0].message.content
    )


def test_grpc_replaces_alike(served: Served, client):
    wanted = chat(client, "lie", POLITE).choices[0].message.content
    request = {
        "messages": [dict(turn) for turn in PROMPTS["lie"].messages],
        "guard": POLITE, "sampling": {"maxTokens": 32, "temperature": 0},
    }  # fmt: skip
    done = subprocess.run(
        [str(BIN / "buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect", "-d",
         json.dumps(request), f"http://127.0.0.1:{served.grpc_port}/monitor.v1.GuardService/Generate"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    decoder, rest, events = json.JSONDecoder(), done.stdout.strip(), []
    while rest:
        event, end = decoder.raw_decode(rest)
        events.append(event)
        rest = rest[end:].strip()
    deltas = [event["delta"] for event in events if "delta" in event]
    assert "".join(delta.get("text", "") for delta in deltas) == wanted
    assert deltas[-1]["finishReason"] == "FINISH_REASON_CONTENT_FILTER"
    assert events[-1]["finished"]["verdicts"][0]["action"] == "ACTION_REPLACE"


# --- directions that are loaded


def steered(client: openai.OpenAI, direction: str, policy: str = "loaded", operator: str = "ablate"):
    return chat(client, "harmful", {"policy": policy, "steering": [{"direction": direction, "operator": operator}]})


def test_a_loaded_direction_does_what_the_same_one_of_the_bundle_does(client):
    own = steered(client, "refusal", "watch").choices[0].message.content
    answer = steered(client, "extra:copy")
    assert is_refusal(chat(client, "harmful", {"policy": "loaded"}).choices[0].message.content)
    assert answer.choices[0].message.content == own
    assert not is_refusal(own)
    (applied,) = answer.model_extra["guard"]["steering"]
    assert applied["direction"].startswith("extra:copy@")


def test_a_folder_that_changes_or_is_new_is_loaded_without_a_restart(served: Served, files: Files, client):
    own = steered(client, "refusal", "watch").choices[0].message.content
    first = steered(client, "extra:copy")
    assert first.choices[0].message.content == own
    width = read_bundle(BUNDLE).manifest.model.d_model
    write_direction(files.directions / "extra", "copy", np.random.default_rng(0).normal(size=width))
    changed = steered(client, "extra:copy")
    assert changed.model_extra["guard"]["steering"] != first.model_extra["guard"]["steering"]
    assert is_refusal(changed.choices[0].message.content), "a random direction does not carry refusal"

    write_direction(files.directions / "later", "copy")
    files.policy.write_text(files.policy.read_text().replace("extra:copy", "later:copy"))
    served.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while "policy reloaded" not in served.text():
        assert time.monotonic() < deadline, served.text()[-2000:]
        time.sleep(0.1)
    assert steered(client, "later:copy").choices[0].message.content == own
    with pytest.raises(openai.PermissionDeniedError, match="later:copy up to 1"):
        steered(client, "extra:copy")
    with pytest.raises(openai.BadRequestError, match="are extra, later"):
        steered(client, "never:copy")
