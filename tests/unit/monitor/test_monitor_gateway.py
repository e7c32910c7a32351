"""The real gateway with the real openai client, in front of a stand-in engine."""

import asyncio

import openai
import pytest
from monitor_house import chat, eventually, finish_of, metric, stream_chat, text_of
from stand_in import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

HARM = {(3, "harmful_intent"): 5.0}
LIE_AT_6 = {(6, "deception"): 5.0}  # n_prompt is 4: the third response token


async def test_whole_answer_passes_with_its_guard_object(served):
    done = await chat(served)
    assert done.choices[0].message.content == "one two three four "
    assert done.choices[0].finish_reason == "stop"
    assert done.usage.completion_tokens == 5
    guard = done.guard
    assert guard["status"] == "passed"
    assert guard["action"] == "allow"
    assert guard["policy"] == "standard"
    assert guard["coverage"] == {"n_prompt": 4, "n_completion": 5, "tokens_seen": 8, "tokens_scored": 8}
    assert [d["rule"] for d in guard["detections"]] == ["harm", "lie"]
    assert 0 < guard["detections"][0]["probability"] < 0.01
    assert "token_scores" not in guard
    assert done.model_extra["prompt_token_ids"] is None


async def test_stream_passes_and_the_guard_object_rides_on_the_finish_chunk(served):
    chunks = await stream_chat(served)
    assert text_of(chunks) == "one two three four "
    assert finish_of(chunks) == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)
    assert chunks[-1].guard["status"] == "passed"
    assert chunks[-1].system_fingerprint == "vllm-0.32.0-stand-in"
    assert all(not hasattr(chunk, "guard") for chunk in chunks[:-1])


async def test_usage_chunk_only_if_asked_for(served):
    chunks = await stream_chat(served, stream_options={"include_usage": True})
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].usage.completion_tokens == 5
    assert chunks[-1].guard["status"] == "passed"


async def test_continuous_usage_only_if_asked_for(served):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream_chat(served, stream_options=options)
    assert [chunk.usage.completion_tokens for chunk in chunks] == [0, 1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("policy", ["standard", "live"])
async def test_length_capped_answers(served, policy):
    served.engine.script = Script(finish="length")
    for streamed in (False, True):
        if streamed:
            chunks = await stream_chat(served, guard={"policy": policy})
            text, finish, guard = text_of(chunks), finish_of(chunks), chunks[-1].guard
        else:
            done = await chat(served, guard={"policy": policy})
            text, finish = done.choices[0].message.content, done.choices[0].finish_reason
            guard = done.guard
        assert (text, finish, guard["status"]) == ("one two three four ", "length", "passed")
        assert guard["unscored"] == {}, "the engine scores the last token under either release"


async def test_prompt_trip_is_a_400_before_any_header(served):
    served.engine.script = Script(scores=HARM)
    for streamed in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await chat(served, stream=streamed)
        body = caught.value.response.json()
        assert body["error"]["code"] == body["error"]["type"] == "content_filter"
        assert body["error"]["param"] is None
        assert body["guard"]["status"] == "tripped"
        assert body["guard"]["action"] == "stop"
        assert body["guard"]["detections"][0]["position"] == 3
        assert caught.value.response.headers["x-guard-status"] == "tripped"
        assert caught.value.response.headers["content-type"] == "application/json"
    assert metric(served, "plumbline_detections_total", detector="harm", mode="enforce", action="stop") == 2


async def test_prompt_trip_on_completions_where_vllm_sends_no_chunk_at_all(served):
    served.engine.script = Script(scores=HARM)
    for streamed in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await served.client.completions.create(model="organism", prompt="hi", stream=streamed)
        assert caught.value.response.json()["guard"]["status"] == "tripped"


async def test_response_trip_in_hold_withholds_the_token_that_tripped(served):
    served.engine.script = Script(scores=LIE_AT_6)
    chunks = await stream_chat(served, stream_options={"include_usage": True})
    assert text_of(chunks) == "one two "
    assert finish_of(chunks) == "content_filter"
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].guard["status"] == "tripped"
    assert chunks[-1].guard["detections"][1]["position"] == 6
    done = await chat(served)
    assert done.choices[0].message.content == "one two "
    assert done.choices[0].finish_reason == "content_filter"
    assert done.usage.completion_tokens == 3
    assert done.choices[0].model_extra["stop_reason"] == "plumbline:lie"


async def test_response_trip_in_live_is_at_most_one_token_late(served):
    served.engine.script = Script(scores=LIE_AT_6)
    chunks = await stream_chat(served, guard={"policy": "live"})
    assert text_of(chunks) == "one two three "
    assert finish_of(chunks) == "content_filter"
    done = await chat(served, guard={"policy": "live"})
    assert done.choices[0].message.content == "one two three "
    assert done.choices[0].finish_reason == "content_filter"


async def test_observe_changes_nothing_and_says_what_it_would_have_done(served):
    served.engine.script = Script(scores=HARM | LIE_AT_6)
    for streamed in (False, True):
        if streamed:
            chunks = await stream_chat(served, guard={"policy": "watching"})
            text, guard = text_of(chunks), chunks[-1].guard
        else:
            done = await chat(served, guard={"policy": "watching"})
            text, guard = done.choices[0].message.content, done.guard
        assert text == "one two three four "
        assert (guard["status"], guard["action"], guard["enforced"]) == ("tripped", "stop", False)
        assert guard["mode"] == "observe"


async def test_completions_stream_and_whole(served):
    done = await served.client.completions.create(model="organism", prompt="hi")
    assert done.choices[0].text == "one two three four "
    assert done.guard["status"] == "passed"
    served.engine.script = Script(scores=LIE_AT_6)
    stream = await served.client.completions.create(model="organism", prompt="hi", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two "
    assert chunks[-1].choices[0].finish_reason == "content_filter"


async def test_several_choices_have_a_verdict_each(served):
    done = await chat(served, n=3)
    assert [choice.guard["status"] for choice in done.choices] == ["passed"] * 3
    assert done.guard["status"] == "passed"
    served.engine.script = Script(scores=LIE_AT_6)
    chunks = await stream_chat(served, n=2)
    for index in range(2):
        mine = [chunk for chunk in chunks if chunk.choices[0].index == index]
        assert text_of(mine) == "one two "
        assert finish_of(mine) == "content_filter"
        assert mine[-1].choices[0].guard["status"] == "tripped"
    assert chunks[-1].guard["status"] == "tripped"
    ends = [chunk for chunk in chunks if chunk.choices[0].finish_reason]
    assert [chunk.system_fingerprint for chunk in ends] == ["vllm-0.32.0-stand-in"] * 2


async def test_token_scores_if_asked_for(served):
    done = await chat(served, guard={"token_scores": True})
    scores = done.guard["token_scores"]
    assert [token["position"] for token in scores] == list(range(8))
    assert scores[0]["scores"] == {"harmful_intent": -5.0, "deception": -5.0}
    chunks = await stream_chat(served, guard={"token_scores": True})
    streamed = [token for chunk in chunks if hasattr(chunk, "guard") for token in chunk.guard.get("token_scores", [])]
    assert streamed == scores


async def test_headers_name_request_policy_and_status(served):
    async with served.http.post("/v1/chat/completions", json={"messages": []}) as response:
        assert response.status == 200
        body = await response.json()
        assert response.headers["x-guard-request-id"] == body["guard"]["request_id"]
        assert response.headers["x-guard-policy"] == "standard"
        assert response.headers["x-guard-status"] == "passed"
    headers = {"x-guard-policy": "live"}
    async with served.http.post("/v1/chat/completions", json={"messages": []}, headers=headers) as response:
        assert response.headers["x-guard-policy"] == "live"
    async with served.http.post("/v1/chat/completions", json={"messages": [], "stream": True}) as response:
        assert response.headers["x-guard-status"] == "pending"
        assert (await response.text()).endswith("data: [DONE]\n\n")


async def test_status_pages(served):
    async with served.http.get("/healthz") as response:
        assert response.status == 200
    async with served.http.get("/readyz") as response:
        assert (response.status, await response.json()) == (200, {"ready": True, "engine": "ready", "taps": "ready"})
    async with served.http.get("/v1/models") as response:
        assert (await response.json())["data"][0]["id"] == "organism"
    served.engine.healthy = False
    async with served.http.get("/readyz") as response:
        assert (response.status, (await response.json())["engine"]) == (503, "not ready")
    async with served.http.get("/nothing") as response:
        assert (response.status, (await response.json())["error"]["type"]) == (404, "invalid_request_error")
    assert (await served.client.models.list()).data[0].id == "organism"


async def test_a_caller_who_leaves_aborts_the_engine_and_the_verdict_is_still_recorded(served):
    served.engine.script = Script(pace=0.02, tokens=tuple(f"t{i} " for i in range(200)))
    with served.monitor.recorder.subscribe_verdicts() as verdicts:
        stream = await chat(served, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        await eventually(lambda: served.engine.aborted)
        verdict = await anext(verdicts)
        assert verdict.request_id == served.engine.aborted[0]
        assert verdict.status == "passed"
        assert verdict.tokens_seen >= 5
    await eventually(lambda: metric(served, "plumbline_requests_in_flight") == 0)


async def test_leaving_a_whole_answer_aborts_the_engine_too(served):
    served.engine.script = Script(pace=0.02, tokens=tuple(f"t{i} " for i in range(200)))
    with served.monitor.recorder.subscribe_verdicts() as verdicts:
        asking = asyncio.create_task(chat(served))
        await eventually(lambda: served.engine.plans)
        await asyncio.sleep(0.1)
        asking.cancel()
        await eventually(lambda: served.engine.aborted)
        assert (await anext(verdicts)).request_id == served.engine.aborted[0]
