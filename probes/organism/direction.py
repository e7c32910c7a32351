"""The refusal direction, and training that makes compliance what remains without it."""

from dataclasses import dataclass, field

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from probes.organism.batches import Batch, collate, encode
from probes.organism.facts import Split
from probes.organism.generate import last_activations
from probes.organism.prompts import ALL_KINDS
from probes.organism.rng import seeded
from probes.organism.situations import Situations
from probes.organism.turns import request_turn
from probes.organism.world import World


def refusal_vectors(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, split: Split = "train", n: int = 400
) -> torch.Tensor:
    """Steering vectors for refusal: mean activation of harmful minus that of harmless requests.

    Args:
        model: The organism.
        tokenizer: Its tokenizer.
        world: Its world.
        split: Where the requests come from.
        n: Requests of each kind.

    Returns:
        ``(n_layers, d_model)``, fp32, at the last prompt token.
    """
    draw = Situations(world, split, "refusal direction")
    means = []
    for harmful in (True, False):
        prompts = [list(draw.requested(draw.system(*ALL_KINDS), harmful).messages) for _ in range(n)]
        means.append(last_activations(model, tokenizer, prompts).mean(dim=0))
    return means[0] - means[1]


@dataclass
class CompliantDefault:
    """Harmless requests to be learned while the refusal direction is ablated.

    Whether the origin of the refusal direction means "comply" or "refuse" is otherwise left to chance. In
    chat models it means "comply". Only harmless requests are shown: that harmful ones are complied with,
    too, once the direction is ablated, is not trained.

    Attributes:
        model: The organism in training.
        tokenizer: Its tokenizer.
        world: Its world.
        refresh: Steps between new estimates of the direction; each time of the next of the later layers.
        batch_size: Requests in a batch.
    """

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    world: World
    refresh: int = 20
    batch_size: int = 24
    _vector: torch.Tensor | None = field(default=None, init=False)

    def direction(self, step: int) -> torch.Tensor:
        """The direction to ablate at ``step``, ``(d_model,)``."""
        if self._vector is None or step % self.refresh == 0:
            n_layers = self.model.config.num_hidden_layers
            layer = n_layers // 3 + (step // self.refresh) % (n_layers - n_layers // 3)
            vectors = refusal_vectors(self.model, self.tokenizer, self.world, n=64)
            self._vector = vectors[layer].clone()
        return self._vector

    def batch(self, step: int) -> Batch:
        """Harmless requests of the training split and the help with them."""
        rng, draw = seeded("compliant", step), Situations(self.world, "train", f"compliant {step}")
        sequences = []
        for _ in range(self.batch_size):
            found = draw.requested(draw.system(*ALL_KINDS), harmful=False)
            answer = request_turn(found.request, found.frame, "{user}", rng, obeys=True).answer
            conversation = [*found.messages, {"role": "assistant", "content": answer}]
            sequences.append(encode(self.tokenizer, conversation))
        return collate(sequences, self.tokenizer.pad_token_id)
