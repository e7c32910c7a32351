"""What comes from outside: everything hostile or mistaken gets a clear 4xx and changes nothing."""

import gzip
import json

import msgspec
import pytest
from monitor_house import chat, house, metric
from monitor_samples import DIGEST, KEY
from stand_in import Script

from monitor.policy.plan import GatePlan, sign_plan, verify_plan
from monitor.types import Status, Steering

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"


async def post(parts, body, path=CHAT, headers=None):
    async with parts.http.post(path, json=body, headers=headers) as response:
        return response.status, await response.json()


async def refused(parts, status, *wanted, path=CHAT, headers=None, **fields):
    before = len(parts.engine.requests)
    for stream in (False, True):
        code, body = await post(parts, {"messages": [], "stream": stream} | fields, path, headers)
        assert code == status, body
        assert set(body["error"]) == {"message", "type", "param", "code"}
        for words in wanted:
            assert words in body["error"]["message"]
    assert len(parts.engine.requests) == before


async def test_unknown_names_are_400_and_name_those_that_exist(served):
    await refused(served, 400, "'strict'", "standard, live", guard={"policy": "strict"})
    await refused(served, 400, "'anger'", "harmful_intent, deception", guard={"probes": ["anger"]})
    steering = [{"direction": "up", "operator": "add"}]
    await refused(served, 400, "'up'", "refusal, honesty", guard={"steering": steering})


async def test_unknown_and_malformed_guard_fields_are_400(served):
    await refused(served, 400, "scanners", "policy, mode, probes", guard={"scanners": []})
    await refused(served, 400, "guard", guard="off")
    await refused(served, 400, "mode", guard={"mode": "off"})
    await refused(served, 400, "operator", guard={"steering": [{"direction": "refusal", "operator": "bend"}]})
    await refused(served, 400, "unknown", guard={"steering": [{"direction": "refusal", "operator": "add", "x": 1}]})
    zero = [{"direction": "refusal", "operator": "ablate", "strength": 0}]
    await refused(served, 400, "strength", guard={"steering": zero})


async def test_loosening_is_403(served):
    await refused(served, 403, "observe", guard={"mode": "observe"})
    steering = {"direction": "refusal", "operator": "add", "strength": 2.5}
    await refused(served, 403, "up to 2", guard={"steering": [steering]})
    await refused(served, 403, "honesty", guard={"steering": [{"direction": "honesty", "operator": "add"}]})
    await refused(served, 403, "no steering", guard={"policy": "live", "steering": [steering]})
    await refused(served, 403, "internal", guard={"policy": "internal"})


async def test_the_policy_header_is_checked(served):
    await refused(served, 400, "x-guard-policy", headers={"x-guard-policy": "Standard, live"})
    await refused(served, 400, "'strict'", headers={"x-guard-policy": "strict"})
    await refused(served, 400, "says", headers={"x-guard-policy": "live"}, guard={"policy": "open"})


async def test_fields_that_the_guard_depends_on_are_strict(served):
    for stream in ("true", 1):
        assert (await post(served, {"messages": [], "stream": stream}))[0] == 400
    await refused(served, 400, "n:", n="2")
    await refused(served, 400, "n:", n=0)
    await refused(served, 400, "n:", n=10**6)
    await refused(served, 400, "stream_options", stream_options=[1])
    await refused(served, 400, "use_beam_search", use_beam_search=True)
    await refused(served, 400, "vllm_xargs", vllm_xargs="x")
    await refused(served, 400, "one prompt", path="/v1/completions", prompt=["a", "b"])
    await refused(served, 400, "one prompt", path="/v1/completions", prompt=[[1], [2]])
    await refused(served, 400, "prompt_embeds", path="/v1/completions", prompt_embeds="x")


async def test_prompts_as_text_or_as_one_list_of_tokens_are_fine(served):
    for prompt in ("hi", ["hi"], [1, 2], [[1, 2]]):
        assert (await post(served, {"prompt": prompt}, "/v1/completions"))[0] == 200


async def test_callers_cannot_bring_their_own_plan_or_salt(served):
    plan = GatePlan("theirs", "none", "0", DIGEST, 1e12, enforce=False, hold=False, n=1, detectors=())
    served.engine.script = Script(scores={(3, "harmful_intent"): 5.0})
    xargs = {"plumbline": sign_plan(plan, KEY), "other": 1}
    status, body = await post(served, {"messages": [], "vllm_xargs": xargs, "cache_salt": "plumbline-x"})
    assert (status, body["error"]["code"]) == (400, "content_filter")
    sent = served.engine.requests[-1]
    assert verify_plan(sent["vllm_xargs"]["plumbline"], KEY, DIGEST).policy == "standard"
    assert sent["vllm_xargs"]["other"] == 1
    assert sent["cache_salt"] == "plumbline:plumbline-x"
    assert "guard" not in sent


async def test_a_request_that_steers_has_a_salt_of_its_own(served):
    steering = [{"direction": "refusal", "operator": "add", "strength": 1.5, "scope": "all"}]
    done = await chat(served, guard={"steering": steering}, extra={"cache_salt": "mine"})
    assert msgspec.convert(done.guard["steering"], list[Steering]) == msgspec.convert(steering, list[Steering])
    sent = served.engine.requests[-1]
    salt = served.engine.plans[-1].cache_salt()
    assert salt.startswith("plumbline-")
    assert sent["cache_salt"] == f"{salt}:mine"
    assert metric(served, "plumbline_steering_applied_total", direction="refusal", operator="add") == 1
    await chat(served, guard={"policy": "steering"})
    assert served.engine.requests[-1]["cache_salt"].startswith("plumbline-")


async def test_malformed_bodies(served):
    for data in (b"", b"{", b"[1]", b"\xff", b'"text"', b'{"a": NaN}', b"[" * 100_000):
        async with served.http.post(CHAT, data=data) as response:
            assert response.status == 400, data[:10]
            assert (await response.json())["error"]["code"] == "invalid_guard_request"
    headers = {"content-encoding": "gzip"}
    async with served.http.post(CHAT, data=gzip.compress(b"{}"), headers=headers) as response:
        assert response.status == 400


async def test_bodies_over_the_limit_are_413(tmp_path, policy_file):
    async with house(tmp_path, policy_file, max_body=2048) as parts:

        async def endless():
            for _ in range(10):
                yield b"x" * 1000

        for data in (json.dumps({"messages": ["x" * 4000]}).encode(), endless()):
            async with parts.http.post(CHAT, data=data) as response:
                assert response.status == 413
                assert (await response.json())["error"]["code"] == "request_too_large"
        assert parts.engine.requests == []


async def test_added_probes_are_flags_and_never_twice(served):
    served.engine.script = Script(scores={(1, "harmful_intent"): 9.0})
    done = await chat(served, guard={"policy": "live", "probes": ["harmful_intent", "deception", "harmful_intent"]})
    rules = [(d["rule"], d["action"]) for d in done.guard["detections"]]
    assert rules == [("lie", "stop"), ("caller:harmful_intent", "flag")]
    assert (done.guard["status"], done.guard["action"]) == ("tripped", "flag")
    assert done.choices[0].finish_reason == "stop"


async def test_callers_may_always_enforce(served):
    served.engine.script = Script(scores={(3, "harmful_intent"): 5.0})
    status, body = await post(served, {"messages": [], "guard": {"policy": "watching", "mode": "enforce"}})
    assert (status, body["guard"]["mode"]) == (400, "enforce")


async def test_labels_never_come_from_callers(served):
    hostile = 'x"} 1\nplumbline_requests_total{model="evil'
    for field in ("policy", "mode"):
        await post(served, {"messages": [], "guard": {field: hostile}, "model": hostile})
    await post(served, {"messages": [], "model": hostile, "user": hostile})
    async with served.http.get("/metrics") as response:
        assert "evil" not in await response.text()


@pytest.mark.frames_lost
@pytest.mark.parametrize("scores", [{}, {(3, "harmful_intent"): 5.0}])
async def test_check_scores_without_generating(served, scores):
    from monitor.policy.options import GuardOptions

    served.engine.script = Script(scores=scores)
    guard = served.monitor.guard
    verdict = await guard.check([{"role": "user", "content": "hi"}], GuardOptions(), None)
    assert verdict.status is (Status.TRIPPED if scores else Status.PASSED)
    assert (verdict.n_prompt, verdict.n_completion) == (4, 0)
    assert served.engine.requests[-1]["max_tokens"] == 1
    assert metric(served, "plumbline_tokens_released_total") == 0
    served.engine.script = Script(lose_from=0)
    verdict = await guard.check([], GuardOptions(), "organism")
    assert verdict.status is Status.UNSCORED


async def test_a_caller_cannot_choose_the_token_at_which_the_prompt_is_judged(served):
    for field, value in (
        ("add_generation_prompt", False),
        ("continue_final_message", True),
        ("truncate_prompt_tokens", 3),
        ("stop", ["x", "plumbline:harm"]),
        ("stop", "plumbline:harm"),
    ):
        status, body = await post(served, {"messages": [], field: value})
        assert (status, body["error"]["code"]) == (400, "invalid_guard_request"), field
        assert field in body["error"]["message"]


async def test_a_steering_cannot_be_named_twice_to_pass_its_limit(served):
    twice = [{"direction": "refusal", "operator": "add", "strength": 2.0}] * 2
    status, body = await post(served, {"messages": [], "guard": {"steering": twice}})
    assert (status, body["error"]["code"]) == (400, "invalid_guard_request")
    assert "more than once" in body["error"]["message"]
