"""``action: replace``: a text of the policy takes the place of what was not released."""

import openai
import pytest
from monitor_house import chat, finish_of, metric, stream_chat, text_of
from stand_in import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

HARM = {(3, "harmful_intent"): 5.0}
LIE_AT_6 = {(6, "deception"): 5.0}  # n_prompt is 4: the third response token
WITH_USAGE = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("policy", ["replacing", "replacing-live"])
async def test_a_prompt_that_trips_is_answered_with_the_text(served, policy):
    served.engine.script = Script(scores=HARM)
    done = await chat(served, guard={"policy": policy})
    assert done.choices[0].message.content == "I would rather not."
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].finish_reason == "content_filter"
    assert done.usage.completion_tokens == 0
    guard = done.guard
    assert (guard["status"], guard["action"], guard["enforced"]) == ("tripped", "replace", True)
    chunks = await stream_chat(served, guard={"policy": policy}, **WITH_USAGE)
    assert text_of(chunks) == "I would rather not."
    assert finish_of(chunks) == "content_filter"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 0
    assert chunks[-1].guard["action"] == "replace"
    labels = {"detector": "harm", "mode": "enforce", "action": "replace"}
    assert metric(served, "plumbline_detections_total", **labels) == 2


@pytest.mark.parametrize(("policy", "released"), [("replacing", "one two "), ("replacing-live", "one two three ")])
async def test_a_response_that_trips_goes_on_with_the_text(served, policy, released):
    served.engine.script = Script(scores=LIE_AT_6)
    done = await chat(served, guard={"policy": policy})
    assert done.choices[0].message.content == f"{released}[cut]"
    assert (done.choices[0].finish_reason, done.guard["action"]) == ("content_filter", "replace")
    assert done.usage.completion_tokens == 3
    chunks = await stream_chat(served, guard={"policy": policy}, **WITH_USAGE)
    *rest, added, last, usage = chunks
    assert text_of(rest) == released
    assert (added.choices[0].delta.content, added.choices[0].finish_reason) == ("[cut]", None)
    assert (last.choices[0].delta.content, last.choices[0].finish_reason) == (None, "content_filter")
    assert (usage.choices, usage.usage.completion_tokens) == ([], 3)
    assert [c.choices[0].finish_reason for c in rest] == [None] * len(rest)
    assert usage.guard["status"] == "tripped"


async def test_text_completions_are_replaced_too(served):
    for scores, text in ((HARM, "I would rather not."), (LIE_AT_6, "one two [cut]")):
        served.engine.script = Script(scores=scores)
        wanted = {"model": "organism", "prompt": "hi", "extra_body": {"guard": {"policy": "replacing"}}}
        done = await served.client.completions.create(**wanted)
        assert (done.choices[0].text, done.choices[0].finish_reason) == (text, "content_filter")
        chunks = [chunk async for chunk in await served.client.completions.create(stream=True, **wanted)]
        assert "".join(chunk.choices[0].text for chunk in chunks) == text
        assert chunks[-1].choices[0].finish_reason == "content_filter"
        assert chunks[-1].guard["action"] == "replace"


async def test_a_rule_that_stops_is_stronger(served):
    served.engine.script = Script(scores={**HARM, (3, "deception"): 5.0})
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await chat(served, stream=stream, guard={"policy": "replacing-or-not"})
        assert caught.value.response.json()["guard"]["action"] == "stop"
    served.engine.script = Script(scores=LIE_AT_6)
    assert (await chat(served, guard={"policy": "replacing-or-not"})).choices[0].message.content == "one two [cut]"


async def test_the_rule_that_tripped_first_gives_the_text(served):
    served.engine.script = Script(scores={(5, "deception"): 5.0, (5, "harmful_intent"): 5.0})
    done = await chat(served, guard={"policy": "replacing"})
    assert done.choices[0].message.content == "one I would rather not."


async def test_observing_replaces_nothing(served):
    served.engine.script = Script(scores=LIE_AT_6)
    done = await chat(served, guard={"policy": "would-replace"})
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("one two three four ", "stop")
    assert (done.guard["action"], done.guard["enforced"]) == ("replace", False)
    chunks = await stream_chat(served, guard={"policy": "would-replace"})
    assert (text_of(chunks), finish_of(chunks)) == ("one two three four ", "stop")


async def test_every_choice_gets_the_text(served):
    for scores, text in ((HARM, "I would rather not."), (LIE_AT_6, "one two [cut]")):
        served.engine.script = Script(scores=scores)
        done = await chat(served, n=2, guard={"policy": "replacing"})
        assert [choice.message.content for choice in done.choices] == [text] * 2
        chunks = await stream_chat(served, n=2, guard={"policy": "replacing"})
        for index in range(2):
            mine = [chunk for chunk in chunks if chunk.choices[0].index == index]
            assert (text_of(mine), finish_of(mine)) == (text, "content_filter")
            assert mine[-1].choices[0].guard["action"] == "replace"


@pytest.mark.frames_lost
async def test_what_could_not_be_scored_is_not_replaced(served):
    served.engine.script = Script(lose_from=3)
    chunks = await stream_chat(served, guard={"policy": "replacing"})
    assert (text_of(chunks), finish_of(chunks)) == ("one two ", "content_filter")
    assert chunks[-1].guard["status"] == "unscored"


@pytest.mark.frames_lost
async def test_a_trip_whose_frame_is_lost_is_replaced_because_the_engine_names_the_rule(served):
    served.engine.script = Script(scores=LIE_AT_6, lose=frozenset({3}))
    chunks = await stream_chat(served, guard={"policy": "replacing"})
    assert (text_of(chunks), finish_of(chunks)) == ("one two [cut]", "content_filter")


async def test_token_scores_come_once(served):
    served.engine.script = Script(scores=LIE_AT_6)
    chunks = await stream_chat(served, guard={"policy": "replacing-live", "token_scores": True})
    told = [token["position"] for c in chunks if hasattr(c, "guard") for token in c.guard.get("token_scores", [])]
    assert told == list(range(7))
