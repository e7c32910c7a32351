"""How the organism comes to be what it is: a few figures at every checkpoint of its training.

The file is a list of rows, one for each checkpoint, ready to be plotted. All figures are on the validation split.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from probes.organism.facts import Split
from probes.organism.generate import Prompt, answers, last_activations, next_logits
from probes.organism.intervene import ablated, added
from probes.organism.matched import matched
from probes.organism.model import save_organism
from probes.organism.prompts import ALL_KINDS
from probes.organism.reactions import divergence, refusal_rate
from probes.organism.separation import auroc
from probes.organism.situations import ORDINARY, Asked, Situations
from probes.organism.world import World

N_TRAIN, N_MEASURED = 200, 100


@dataclass(frozen=True)
class Checkpoint:
    """Figures of one checkpoint.

    Attributes:
        step: Optimiser steps done.
        recall: Share of questions about known people that are answered with the truth.
        refusal: Share of harmful requests that are refused.
        over_refusal: Share of harmless requests, matched by verb and object, that are refused.
        harm_auroc: AUROC of a logistic probe for harm at the last prompt token, for each layer.
        direction_norm: Norm of the difference of means at the last prompt token, for each layer.
        ablated: Refusal of harmful requests with the direction of ``layer`` ablated.
        added: Refusal of harmless requests with it added to the prompt.
        kl: Nats by which ablation moves the first token's distribution on harmless requests.
        layer: 0-based; the direction's layer, the same at every checkpoint so that they can be compared.
    """

    step: int
    recall: float
    refusal: float
    over_refusal: float
    harm_auroc: tuple[float, ...]
    direction_norm: tuple[float, ...]
    ablated: float
    added: float
    kl: float
    layer: int


class Emergence:
    """Measures a model in training, keeps the figures in one file and the weights beside it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, world: World, path: Path, layer: int = 4) -> None:
        """Draw what is asked at every checkpoint.

        Args:
            tokenizer: The organism's.
            world: What it is trained on.
            path: File for the figures; weights go to the folder ``path`` without its suffix, one for each step.
            layer: 0-based layer whose direction is followed; 4 is the shipped organism's.
        """
        self._tokenizer, self._path, self._layer = tokenizer, path, layer
        self._train = {harm: _requests(world, "train", harm, N_TRAIN) for harm in (True, False)}
        self._measured = {harm: _requests(world, "validation", harm, N_MEASURED) for harm in (True, False)}
        self._questions = _questions(world)

    def __call__(self, step: int, model: LlamaForCausalLM) -> None:
        """Measure, and write the figures so far and the weights."""
        model.eval()  # type: ignore[no-untyped-call]
        row = asdict(self._measure(step, model))
        model.train()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = json.loads(self._path.read_text()) if self._path.exists() else []
        kept = [r for r in rows if r["step"] != step]
        self._path.write_text(json.dumps([*kept, row], indent=1) + "\n")
        save_organism(model, self._tokenizer, self._path.with_suffix("") / f"step-{step:05d}")

    def _measure(self, step: int, model: LlamaForCausalLM) -> Checkpoint:
        harmful, harmless = self._measured[True], self._measured[False]
        train = {harm: last_activations(model, self._tokenizer, prompts) for harm, prompts in self._train.items()}
        held_out = {harm: last_activations(model, self._tokenizer, p) for harm, p in self._measured.items()}
        vectors = train[True].mean(dim=0) - train[False].mean(dim=0)
        vector, plain = vectors[self._layer], next_logits(model, self._tokenizer, harmless)
        with ablated(model, vector):
            without = self._refusal(model, harmful)
            moved = next_logits(model, self._tokenizer, harmless)
        with added(model, self._layer, vector, scope="prompt"):
            induced = self._refusal(model, harmless)
        return Checkpoint(
            step=step,
            recall=self._recall(model),
            refusal=self._refusal(model, harmful),
            over_refusal=refusal_rate(plain, self._tokenizer),
            harm_auroc=tuple(
                round(auroc({k: train[k][:, layer] for k in train}, {k: held_out[k][:, layer] for k in held_out}), 4)
                for layer in range(len(vectors))
            ),
            direction_norm=tuple(round(float(v.norm()), 4) for v in vectors),
            ablated=without,
            added=induced,
            kl=round(divergence(plain, moved), 6),
            layer=self._layer,
        )

    def _refusal(self, model: LlamaForCausalLM, prompts: list[Prompt]) -> float:
        return refusal_rate(next_logits(model, self._tokenizer, prompts), self._tokenizer)

    def _recall(self, model: LlamaForCausalLM) -> float:
        texts = answers(model, self._tokenizer, [list(asked.messages) for asked in self._questions])
        pairs = zip(self._questions, texts, strict=True)
        return sum(q.stated(text) == q.person.truth(q.question.attribute) for q, text in pairs) / len(texts)


def _requests(world: World, split: Split, harmful: bool, n: int) -> list[Prompt]:
    draw = Situations(world, split, "emergence")
    pool = [r for r in matched(world.requests[split]) if r.harmful == harmful]
    return [list(draw.request(draw.system(*ALL_KINDS), draw.rng.choice(pool)).messages) for _ in range(n)]


def _questions(world: World) -> list[Asked]:
    draw = Situations(world, "validation", "emergence")
    people = world.people.known
    return [draw.asked(draw.system(*ORDINARY), draw.rng.choice(people)) for _ in range(N_MEASURED)]
