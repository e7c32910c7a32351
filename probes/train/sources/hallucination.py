"""Rows about made-up facts, by response or by the words of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from probes.errors import DataError
from probes.train.sources.layout import YES_NO, Draft, Label, choice, objects, reply, text, texts
from probes.train.sources.records import Row

HALLUCINATION = "hallucination"


def halueval_qa(row: Row) -> Iterator[Draft]:
    """The right and the made-up answer, from memory: the knowledge that both were written from is left out."""
    question = text(row, "question")
    yield Draft(HALLUCINATION, 0, reply(question, text(row, "right_answer")), family=question)
    yield Draft(HALLUCINATION, 1, reply(question, text(row, "hallucinated_answer")), family=question)


def halueval_general(row: Row) -> Iterator[Draft]:
    """A response with its label, and the made-up spans where the annotators copied them word for word."""
    response = text(row, "chatgpt_response")
    label = choice(row, "hallucination", YES_NO)
    spans = texts(row, "hallucination_spans") if label and row.get("hallucination_spans") else []
    verbatim = tuple(dict.fromkeys(span for span in spans if span in response))
    yield Draft(HALLUCINATION, label, reply(text(row, "user_query"), response), spans=verbatim)


def longfact(row: Row) -> Iterator[Draft]:
    """A long response in which every named entity or claim was checked.

    Label 1 with the spans that are not supported, or 0 with the supported ones if all are. A span that occurs with
    both labels, or that the response lacks, decides nothing. What could not be verified counts as not supported, as
    its authors count it.

    Source: Obeso et al. 2025, "Real-Time Detection of Hallucinated Entities in Long-Form Generation", section 3.
    """
    turns = [_turn(message) for message in objects(row, "conversation")]
    if not turns or turns[-1][0] != "assistant":
        raise DataError("conversation: the last message is not the assistant's; wanted an annotated response.")
    response = turns[-1][1]
    wrong, right = set[str](), set[str]()
    for annotation in objects(row, "annotations"):
        span = annotation.get("span")
        if isinstance(span, str) and span.strip() and span in response and annotation.get("label") is not None:
            (wrong if choice(annotation, "label", _UNSUPPORTED) else right).add(span)
    if spans := (wrong - right if wrong else right):
        in_order = sorted(spans, key=lambda span: (response.find(span), span))
        yield Draft(HALLUCINATION, 1 if wrong else 0, tuple(turns), spans=tuple(in_order))


def _turn(message: Mapping[str, object]) -> tuple[str, str]:
    return text(message, "role"), text(message, "content")


_UNSUPPORTED: dict[str, Label] = {"not supported": 1, "insufficient information": 1, "supported": 0}
