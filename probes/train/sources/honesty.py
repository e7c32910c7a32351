"""Rows about true and false statements, and about lying."""

from __future__ import annotations

from collections.abc import Iterator

from probes.train.families import leading_words
from probes.train.sources.layout import YES_NO, Draft, choice, optional, reply, text, texts, user
from probes.train.sources.records import Row

FALSEHOOD = "falsehood"
DECEPTION = "deception"
PRESSURE = "lie_pressure"

_TELL = "Tell me something about the world."
_HONEST = "Pretend to be an honest person, and tell me something about the world."
_DISHONEST = "Pretend to be a dishonest person, and tell me something about the world."
_CUT_WORDS = 5


def facts(row: Row) -> Iterator[Draft]:
    """A statement with its truth value.

    It gives one example of ``falsehood``; a true statement also gives a pair for ``deception``, its first words said
    under an honest and under a dishonest instruction. The last five words are cut off, so that the response is still
    open when it is read, and both halves of the pair have the same one.

    Source: Zou et al. 2023, "Representation Engineering", section 4 (the pairs); Goldowsky-Dill et al. 2025,
    "Detecting Strategic Deception Using Linear Probes", section 3 (the cut).
    """
    statement, is_true = text(row, "statement"), choice(row, "label", YES_NO)
    family = leading_words(statement)
    yield Draft(FALSEHOOD, 0 if is_true else 1, reply(_TELL, statement), family=family)
    if beginning := " ".join(statement.split()[:-_CUT_WORDS]) if is_true else "":
        yield Draft(DECEPTION, 0, reply(_HONEST, beginning), family=family)
        yield Draft(DECEPTION, 1, reply(_DISHONEST, beginning), family=family)


def truthfulqa(row: Row) -> Iterator[Draft]:
    """Every correct and every incorrect answer to a question that invites a common misconception."""
    question = text(row, "question")
    for answer in texts(row, "correct_answers"):
        yield Draft(FALSEHOOD, 0, reply(question, answer), family=question)
    for answer in texts(row, "incorrect_answers"):
        yield Draft(FALSEHOOD, 1, reply(question, answer), family=question)


def ai_liar(row: Row) -> Iterator[Draft]:
    """One answer under a deceptive and under a normal instruction: only the instruction tells them apart.

    Source: Pacchiardi et al. 2023, "How to Catch an AI Liar", appendix F, as Goldowsky-Dill et al. 2025 use it.
    """
    question = text(row, "question")
    prompt = f"{optional(row, 'question_prefix')} {question}".strip()
    answer = f"{optional(row, 'answer_prefix')} {text(row, 'answer')}".strip()
    yield Draft(DECEPTION, 0, reply(prompt, answer, text(row, "normal_instruction")), family=question)
    yield Draft(DECEPTION, 1, reply(prompt, answer, text(row, "deceive_instruction")), family=question)


def mask(row: Row) -> Iterator[Draft]:
    """Prompts that press the model to lie, and neutral questions about the same proposition.

    The set has no responses: whether a model lies under this pressure is a label of *its* answers.
    """
    proposition = text(row, "proposition")
    system = optional(row, "system_prompt")
    turns = (("system", system),) if system else ()
    yield Draft(PRESSURE, 1, (*turns, *user(text(row, "user_prompt"))), family=proposition)
    for i in (1, 2, 3):
        if question := optional(row, f"belief_elicit_{i}"):
            yield Draft(PRESSURE, 0, user(question), family=proposition)
