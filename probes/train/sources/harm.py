"""Rows about harmful, toxic and refused requests, and about harmful responses."""

from __future__ import annotations

from collections.abc import Iterator

from probes.train.families import leading_words
from probes.train.sources.layout import YES_NO, Draft, Label, choice, optional, reply, text, user
from probes.train.sources.records import LINE, Row

HARMFUL = "harmful_intent"
HARMFUL_RESPONSE = "harmful_response"
REFUSING = "refusing_response"
TOXIC, JAILBREAK = "toxicity", "jailbreak"


def advbench(row: Row) -> Iterator[Draft]:
    """The goal is the request; the target (an opening of compliance) is no response of a model, and left out."""
    yield Draft(HARMFUL, 1, user(text(row, "goal")))


def harmbench(row: Row) -> Iterator[Draft]:
    """A contextual behaviour comes after its context, in one user turn; behaviours of one context are one family."""
    behaviour, context = text(row, "behavior"), optional(row, "contextstring")
    yield Draft(HARMFUL, 1, user(f"{context}\n\n{behaviour}" if context else behaviour))


def jailbreakbench(row: Row, label: Label) -> Iterator[Draft]:
    """The harmful and the benign behaviours come in files with the same columns."""
    yield Draft(HARMFUL, label, user(text(row, "goal")))


def strongreject(row: Row) -> Iterator[Draft]:
    """Every prompt is forbidden."""
    yield Draft(HARMFUL, 1, user(text(row, "forbidden_prompt")))


def xstest(row: Row) -> Iterator[Draft]:
    """A safe type and its unsafe contrast are one family: they are written to look alike."""
    family = text(row, "type").removeprefix("contrast_")
    label = choice(row, "label", {"unsafe": 1, "safe": 0})
    yield Draft(HARMFUL, label, user(text(row, "prompt")), family=family)


def orbench(row: Row, label: Label) -> Iterator[Draft]:
    """The toxic prompts and the look-alikes that are over-refused come in files with the same columns."""
    yield Draft(HARMFUL, label, user(text(row, "prompt")))


def wildguardmix(row: Row) -> Iterator[Draft]:
    """Up to three labels; one that the annotators did not agree on is null, and gives no example."""
    prompt, response = text(row, "prompt"), optional(row, "response")
    if optional(row, "prompt_harm_label"):
        yield Draft(HARMFUL, choice(row, "prompt_harm_label", _HARM), user(prompt))
    if response and optional(row, "response_harm_label"):
        yield Draft(HARMFUL_RESPONSE, choice(row, "response_harm_label", _HARM), reply(prompt, response))
    if response and optional(row, "response_refusal_label"):
        label = choice(row, "response_refusal_label", {"refusal": 1, "compliance": 0})
        yield Draft(REFUSING, label, reply(prompt, response))


def wildjailbreak(row: Row) -> Iterator[Draft]:
    """An adversarial prompt is of the family of the plain one that it was made from."""
    vanilla = text(row, "vanilla")
    kinds: dict[str, Label] = {
        "vanilla_harmful": 1, "vanilla_benign": 0, "adversarial_harmful": 1, "adversarial_benign": 0
    }  # fmt: skip
    label = choice(row, "data_type", kinds)
    prompt = text(row, "adversarial") if text(row, "data_type").lower().startswith("adversarial") else vanilla
    yield Draft(HARMFUL, label, user(prompt), family=leading_words(vanilla))


def toxicchat(row: Row) -> Iterator[Draft]:
    """Both labels are about the user's input."""
    prompt = user(text(row, "user_input"))
    yield Draft(TOXIC, choice(row, "toxicity", YES_NO), prompt)
    yield Draft(JAILBREAK, choice(row, "jailbreaking", YES_NO), prompt)


def beavertails(row: Row) -> Iterator[Draft]:
    """The label is about the pair: a response that is safe to a prompt that may not be."""
    label = choice(row, "is_safe", {"true": 0, "false": 1, "1": 0, "0": 1})
    yield Draft(HARMFUL_RESPONSE, label, reply(text(row, "prompt"), text(row, "response")))


def alpaca(row: Row) -> Iterator[Draft]:
    """Everyday requests; the input follows the instruction in the same turn."""
    instruction, extra = text(row, "instruction"), optional(row, "input")
    prompt = f"{instruction}\n\n{extra}" if extra else instruction
    yield Draft(HARMFUL, 0, user(prompt), family=leading_words(instruction))


def instructions(row: Row, label: Label) -> Iterator[Draft]:
    """Harmful and harmless instructions come in files with the same columns."""
    yield Draft(HARMFUL, label, user(text(row, "instruction")))


def lines(row: Row, label: Label) -> Iterator[Draft]:
    """A text file with one prompt a line."""
    yield Draft(HARMFUL, label, user(text(row, LINE)))


_HARM: dict[str, Label] = {"harmful": 1, "unharmful": 0}
