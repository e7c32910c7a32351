"""What is released of an answer that is cut, and when a token must have been scored."""

import pytest
from monitor_samples import DIGEST

from monitor.ending import cut_choice, kept_prefix, needed_positions, plain_text, stopping_rule
from monitor.policy.plan import DetectorPlan, GatePlan
from monitor.types import Action

STOP = DetectorPlan("harm", "harmful_intent", 1.0, Action.STOP)
FLAG = DetectorPlan("lie", "deception", 1.0, Action.FLAG)


def plan(hold=True, enforce=True):
    return GatePlan("a", "p", "r", DIGEST, 1.0, enforce=enforce, hold=hold, n=1, detectors=(STOP, FLAG))


@pytest.mark.parametrize(
    ("text", "decoded", "kept"),
    [
        ("one two three", "one two", "one two"),
        (" one two three", "one two", " one two"),
        ("one two", " one", "one"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}!", "caf\N{REPLACEMENT CHARACTER}", "caf"),
        ("one two", "<s>one", ""),
        ("one", "", ""),
    ],
)
def test_kept_is_always_a_beginning_of_the_answer(text, decoded, kept):
    assert kept_prefix(text, decoded) == kept
    assert text.startswith(kept)


@pytest.mark.parametrize(
    ("finish", "stop_reason", "hold", "stop_text", "needed"),
    [
        (None, None, True, False, 9),  # every token of the chunk
        (None, None, False, False, 8),  # but the newest
        ("length", None, True, False, 9),
        ("length", None, False, False, 8),
        ("stop", None, True, False, 8),  # EOS carries no text
        ("stop", 7, True, False, 8),  # a stop token neither
        ("stop", 7, True, True, 9),  # unless asked for
        ("tool_calls", None, True, False, 8),
        ("stop", "END", True, False, 9),
        ("repetition", None, True, False, 9),
        ("stop", "plumbline:harm", True, False, 9),
        ("stop", "plumbline:harm", False, False, 9),
        ("stop", "plumbline:lie", False, False, 8),  # a stop string that looks like one of our reasons
    ],
)
def test_needed_positions(finish, stop_reason, hold, stop_text, needed):
    choice = {"finish_reason": finish, "stop_reason": stop_reason}
    assert needed_positions(4, 5, choice, plan(hold=hold), stop_text=stop_text) == needed


def test_the_prompt_is_always_needed():
    assert needed_positions(4, 0, {"finish_reason": None}, plan(hold=False), stop_text=False) == 4


def test_only_enforced_rules_that_stop_count_as_stopping():
    assert stopping_rule({"stop_reason": "plumbline:harm"}, plan()) == "harm"
    assert stopping_rule({"stop_reason": "plumbline:harm"}, plan(enforce=False)) is None
    assert stopping_rule({"stop_reason": "plumbline:lie"}, plan()) is None
    assert stopping_rule({"stop_reason": "plumbline:other"}, plan()) is None
    assert stopping_rule({"stop_reason": 5}, plan()) is None


def test_nothing_but_text_is_kept_of_a_cut_answer():
    message = {
        "role": "assistant",
        "content": "one two",
        "reasoning": "hm",
        "tool_calls": [{"function": {"arguments": "two"}}],
        "audio": None,
    }
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": [1]},
        "token_ids": [1, 2],
        "finish_reason": "stop",
    }
    assert plain_text(choice) is None
    done = cut_choice(choice, "")
    assert done["finish_reason"] == "content_filter"
    assert "two" not in str(done)
    assert "hm" not in str(done)
    assert set(done) == set(choice)
    assert set(done["message"]) == set(message)
    assert cut_choice({"index": 0, "text": "one two", "finish_reason": "stop"}, "one")["text"] == "one"
