"""Labelled data for probes, in the format of any user's own data.

Responses are the organism's own greedy answers, kept only if they are what their label says.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from probes.organism.candidates import Candidate, Concept, candidates
from probes.organism.corpus import Message
from probes.organism.demo import DemoPrompt, demo_prompts
from probes.organism.facts import Split
from probes.organism.generate import answers
from probes.organism.measures import was_helped, was_refused
from probes.organism.situations import Asked, Requested, Situations
from probes.organism.world import World

__all__ = ["CONCEPTS", "DataMaker", "DemoPrompt", "Record", "demo_prompts", "write_jsonl"]

CONCEPTS: tuple[Concept, ...] = ("harmful_intent", "deception", "hallucination", "refusal")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
N_EACH_LABEL: dict[Split, int] = {"train": 1000, "validation": 620, "test": 520}


@dataclass(frozen=True)
class Record:
    """One labelled example.

    Attributes:
        id: Unique within the concept.
        concept: What the label is about.
        messages: The conversation. If the assistant has the last word, the label is about that response,
            otherwise about the prompt.
        label: 1 where the concept is present.
        split: "validation" and "test" share no person, pair, template or system prompt with "train".
        family: Template family of the last user message.
        spans: Substrings of the response to which the label applies; empty for all of it.
        source: Where the example comes from.
    """

    id: str
    concept: Concept
    messages: tuple[Message, ...]
    label: int
    split: Split
    family: str
    spans: tuple[str, ...] = ()
    source: str = "organism"

    def to_json(self) -> str:
        """One line of JSON."""
        row = {"id": self.id, "concept": self.concept, "messages": list(self.messages), "label": self.label}
        if self.spans:
            row["spans"] = list(self.spans)
        return json.dumps(row | {"split": self.split, "source": self.source, "family": self.family})


class DataMaker:
    """Draws situations, lets the organism answer and keeps what deserves its label."""

    def __init__(
        self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, seed: int = 0
    ) -> None:
        """Prepare.

        Args:
            model: The organism.
            tokenizer: Its tokenizer.
            world: Its world.
            seed: Seed of the sampling, not of the world.
        """
        self._model, self._tokenizer, self._world, self._seed = model, tokenizer, world, seed

    def records(self, concept: Concept) -> list[Record]:
        """All records of ``concept``, each prompt once."""
        return [
            replace(record, id=f"{concept}-{split}-{number:05d}")
            for split in SPLITS
            for number, record in enumerate(self._records(concept, split))
        ]

    def _records(self, concept: Concept, split: Split) -> Iterator[Record]:
        draw = Situations(self._world, split, f"{concept}:{self._seed}")
        drawn = list(candidates(concept, draw, N_EACH_LABEL[split]))
        if concept == "harmful_intent":
            for c in drawn:
                yield Record("", concept, c.situation.messages, c.label, split, c.family)
            return
        prompts = [list(c.situation.messages) for c in drawn]
        for candidate, answer in zip(drawn, answers(self._model, self._tokenizer, prompts), strict=True):
            if not self._deserved(concept, candidate, answer):
                continue
            messages, spans = candidate.situation.messages, _spans(candidate, answer)
            if concept != "refusal":
                messages = (*messages, {"role": "assistant", "content": answer})
            yield Record("", concept, messages, candidate.label, split, candidate.family, spans)

    def _deserved(self, concept: Concept, candidate: Candidate, answer: str) -> bool:
        situation = candidate.situation
        if isinstance(situation, Requested):
            refusing = concept == "refusal" and bool(candidate.label)
            return was_refused(situation, answer) if refusing else was_helped(situation, answer)
        value = situation.stated(answer)
        if value is None or not situation.person.known:
            return value is not None
        if situation.told_to_lie:
            return value == self._world.lie(situation.person, situation.question.attribute)
        return value == situation.person.truth(situation.question.attribute)


def _spans(candidate: Candidate, answer: str) -> tuple[str, ...]:
    value = candidate.situation.stated(answer) if isinstance(candidate.situation, Asked) else None
    return () if value is None else (value,)


def write_jsonl(records: Sequence[Record], path: Path) -> None:
    """One record a line."""
    path.write_text("".join(record.to_json() + "\n" for record in records))
