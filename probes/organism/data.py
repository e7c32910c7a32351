"""Labelled data for probes, in the format of any user's own data.

Responses are the organism's own greedy answers, kept only if they are what their label says; for deception also the
same answers with lie and truth exchanged.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from probes.organism.confabulation import hallucination
from probes.organism.corpus import Message
from probes.organism.deceit import deception
from probes.organism.drafts import Answer, Draft
from probes.organism.families import check_frozen
from probes.organism.generate import answers
from probes.organism.intent import harmful_intent, refusal
from probes.organism.shifted import shifted
from probes.organism.situations import Situations
from probes.organism.world import World
from probes.train.examples import SPLITS, Example, Split, messages_hash
from probes.train.lock import LOCK_FILE, make_lock

Concept = Literal["harmful_intent", "deception", "hallucination", "refusal"]
Maker = Callable[[Situations, int, Answer], Iterator[Draft]]
CONCEPTS: tuple[Concept, ...] = get_args(Concept)
MAKERS: Mapping[Concept, Maker] = {
    "harmful_intent": harmful_intent,
    "deception": deception,
    "hallucination": hallucination,
    "refusal": refusal,
}
N_EACH_LABEL: dict[Split, int] = {"train": 1000, "validation": 620, "test": 520}
N_SHIFTED = 120


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

    def examples(self, concept: Concept) -> list[Example]:
        """All examples of ``concept``, shifted ones last; no conversation twice."""
        return [
            Example(
                id=f"{concept}-{draft.shift or split}-{number:05d}",
                concept=concept,
                messages=draft.messages,  # type: ignore[arg-type]  # pydantic makes messages of dictionaries
                label=draft.label,  # type: ignore[arg-type]  # and checks that it is 0 or 1
                spans=draft.spans,
                split=split,
                source=f"organism: {draft.kind}" if draft.kind else "organism",
                family=draft.family,
                shift=draft.shift,
            )
            for split in SPLITS
            for number, draft in enumerate(self._drafts(concept, split))
        ]

    def _drafts(self, concept: Concept, split: Split) -> Iterator[Draft]:
        draw = Situations(self._world, split, f"{concept}:{self._seed}")
        seen = set[str]()
        for draft in self._all_drafts(concept, draw):
            if (key := repr(draft.messages)) not in seen:
                seen.add(key)
                yield draft

    def _all_drafts(self, concept: Concept, draw: Situations) -> Iterator[Draft]:
        yield from MAKERS[concept](draw, N_EACH_LABEL[draw.split], self._answer)
        if draw.split == "test" and concept != "refusal":
            again = Situations(self._world, "test", f"{concept} shifted:{self._seed}")
            yield from shifted(concept, again, N_SHIFTED, self._answer)

    def _answer(self, prompts: Sequence[tuple[Message, ...]]) -> list[str]:
        return answers(self._model, self._tokenizer, [list(p) for p in prompts])


def write_data(examples: Mapping[Concept, Sequence[Example]], world: World, folder: Path) -> None:
    """One ``.jsonl`` for each concept, and the lock of their splits.

    Raises:
        ValueError: The world's template families are not those that were frozen.
    """
    settings = {"world": str(world.seed), "template families": check_frozen(world)}
    folder.mkdir(parents=True, exist_ok=True)
    for concept, rows in examples.items():
        lines = (row.model_dump_json(exclude_defaults=True) + "\n" for row in rows)
        (folder / f"{concept}.jsonl").write_text("".join(lines))
    splits = {messages_hash(e.messages): e.split for rows in examples.values() for e in rows if not e.shift}
    (folder / LOCK_FILE).write_text(make_lock(splits, settings).model_dump_json(indent=1) + "\n")
