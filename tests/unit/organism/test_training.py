"""Training: what is learned, from what, and that it can be resumed."""

from itertools import pairwise

import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from probes.organism.batches import IGNORED, bucketed, collate, encode
from probes.organism.corpus import Corpus
from probes.organism.facts import VALUES
from probes.organism.intervene import ablated, added, recorded
from probes.organism.tokenizer import make_tokenizer
from probes.organism.train import Recipe, Trainer
from probes.organism.world import make_world


def test_only_the_assistants_tokens_are_learned():
    tokenizer = make_tokenizer()
    messages = [{"role": "user", "content": "hello."}, {"role": "assistant", "content": "good morning."}]
    batch = collate([encode(tokenizer, messages)], tokenizer.pad_token_id)
    learned = batch.targets[batch.targets != IGNORED]
    assert tokenizer.convert_ids_to_tokens(learned.tolist()) == ["▁good", "▁morning", ".", "<|end|>"]


def test_batches_hold_every_conversation_once():
    tokenizer = make_tokenizer()
    sequences = [encode(tokenizer, c) for c in Corpus(make_world(0), 0).conversations(0, 50)]
    batches = bucketed(sequences, 8, tokenizer.pad_token_id, seed=1)
    assert sum(len(b.tokens) for b in batches) == 50
    assert sum(b.n_tokens for b in batches) == sum(len(s.tokens) for s in sequences)


def test_training_never_shows_unseen_people_or_held_out_pairs():
    world = make_world(0)
    text = " ".join(m["content"] for c in Corpus(world, 0).conversations(0, 2000) for m in c)
    assert not [p.name for p in world.people.unseen if p.name in text]
    held_out = [r.phrase for r in world.requests["test"] if r.owner == "other"]
    assert not [phrase for phrase in held_out if phrase in text]


def test_thin_people_get_inconsistent_values():
    world = make_world(0)
    thin = {p.name for p in world.people.thin}
    stated: dict[str, set[str]] = {}
    for conversation in Corpus(world, 0).conversations(0, 20000):
        answer = conversation[-1]["content"]
        words = answer.replace(".", "").replace(",", "").split()
        name = next((" ".join(pair) for pair in pairwise(words) if " ".join(pair) in thin), None)
        if name and (homes := set(words) & set(VALUES["home"])):
            stated.setdefault(name, set()).update(homes)
    assert max(len(homes) for homes in stated.values()) > 1


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    recipe = Recipe(steps=2, batch_size=2, checkpoint_every=1)
    straight = Trainer(recipe, tmp_path / "straight.pt")
    straight.run(Console(quiet=True))
    interrupted = Trainer(recipe, tmp_path / "stopped.pt")
    interrupted._train_on(next(interrupted._batches()))
    interrupted.save_checkpoint()
    resumed = Trainer(recipe, tmp_path / "stopped.pt")
    resumed.run(Console(quiet=True))
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def small_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=30, **sizes)).eval()


def test_after_ablation_no_layer_has_a_component_along_the_direction():
    model, direction = small_model(), torch.randn(16)
    with ablated(model, direction), torch.no_grad():
        # the last hidden state is normed; the others are raw layer outputs
        states = model(torch.arange(5)[None], output_hidden_states=True).hidden_states[:-1]
    assert max((state @ direction).abs().max() for state in states) < 1e-4


def test_addition_moves_the_layers_output_by_exactly_the_vector():
    model, vector, tokens = small_model(), torch.randn(16), torch.arange(5)[None]
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    with torch.no_grad():
        with recorded(model, before):
            model(tokens)
        with added(model, 0, vector, strength=2.0), recorded(model, after):
            model(tokens)
    assert torch.allclose(after[0] - before[0], (2 * vector).expand_as(before[0]), atol=1e-5)
