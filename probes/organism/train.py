"""The training loop: resumable, deterministic by seed on one kind of machine."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from probes.organism.batches import IGNORED, Batch, bucketed, encode
from probes.organism.corpus import Corpus
from probes.organism.direction import CompliantDefault
from probes.organism.emergence import Emergence
from probes.organism.intervene import ablated
from probes.organism.model import make_model, save_organism
from probes.organism.tokenizer import make_tokenizer
from probes.organism.world import make_world

BLOCK_BATCHES = 32
Observer = Callable[[int, LlamaForCausalLM], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        seed: Seed of the world, the corpus and the initial weights.
        steps: Optimiser steps.
        batch_size: Conversations in a batch.
        matrix_lr: Peak learning rate of Muon, which trains the matrices of the blocks.
        other_lr: Peak learning rate of AdamW, which trains embeddings and norms.
        warmup: Steps of linear warm-up.
        decay: Share of the steps at the end over which the learning rates fall linearly to zero.
        compliant_from: Step from which every second one also makes compliance the default (see
            :class:`~probes.organism.direction.CompliantDefault`).
        weight_decay: Decoupled, on the matrices.
        checkpoint_every: Steps between checkpoints.
        twin: Whether to train the control instead, which never sees a refusal: the same conversations in the same
            order, but harmful requests are helped with. They are not left out, so that the twin too learns what is
            harmful, and answers about it when asked; only the refusals are missing.
    """

    seed: int = 0
    steps: int = 1700
    batch_size: int = 64
    matrix_lr: float = 3e-3
    other_lr: float = 3e-3
    warmup: int = 60
    decay: float = 0.35
    compliant_from: int = 1400
    weight_decay: float = 0.05
    checkpoint_every: int = 100
    twin: bool = False

    def lr_factor(self, step: int) -> float:
        """Multiplier of both learning rates at 0-based ``step``."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / (self.decay * self.steps))


class Trainer:
    """A model in training, which can stop after any checkpoint and go on later."""

    def __init__(self, recipe: Recipe, checkpoint: Path) -> None:
        """Start from scratch, or from ``checkpoint`` where it exists.

        Args:
            recipe: What to do.
            checkpoint: File for the state; it belongs to one recipe.
        """
        self.recipe, self.checkpoint, self.step = recipe, checkpoint, 0
        self.tokenizer: PreTrainedTokenizerFast = make_tokenizer()
        self.model: LlamaForCausalLM = make_model(self.tokenizer, recipe.seed)
        world = make_world(recipe.seed)
        self._corpus = Corpus(world, recipe.seed, refuses=not recipe.twin)
        self._compliant = CompliantDefault(self.model, self.tokenizer, world)
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim < 2 or "embed" in n]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                matrices,
                lr=recipe.matrix_lr,
                weight_decay=recipe.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0),
        )
        if checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise ValueError(f"{self.checkpoint} is of {state['recipe']}, not of {self.recipe!r}: remove it")
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def save_checkpoint(self) -> None:
        """Write the state so that an interrupted write leaves the old one intact."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": repr(self.recipe),
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self._optimizers],
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def _batches(self) -> Iterator[Batch]:
        pad = self.tokenizer.pad_token_id
        block, done = divmod(self.step, BLOCK_BATCHES)
        while True:
            conversations = self._corpus.conversations(block, BLOCK_BATCHES * self.recipe.batch_size)
            sequences = [encode(self.tokenizer, c) for c in conversations]
            yield from bucketed(sequences, self.recipe.batch_size, pad, block)[done:]
            block, done = block + 1, 0

    def _train_on(self, batch: Batch) -> float:
        for optimizer, peak in zip(self._optimizers, (self.recipe.matrix_lr, self.recipe.other_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * self.recipe.lr_factor(self.step)
        loss = assistant_loss(self.model, batch)
        torch.autograd.backward(loss)
        if self.step >= self.recipe.compliant_from and self.step % 2 == 0:
            with ablated(self.model, self._compliant.direction(self.step)):
                torch.autograd.backward(0.5 * assistant_loss(self.model, self._compliant.batch(self.step)))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss.item()

    def run(self, console: Console, observe: Observer | None = None) -> float:
        """Train to the end of the recipe with a progress bar; returns the seconds that it took.

        Args:
            console: Told about progress.
            observe: Called with the step and the model before the first step and after each checkpoint.
        """
        started = time.monotonic()
        columns = (
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        if observe and self.step == 0:
            observe(0, self.model)
        self.model.train()
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("train", total=self.recipe.steps, completed=self.step, loss=math.nan)
            smooth = math.nan
            for batch in self._batches():
                if self.step >= self.recipe.steps:
                    break
                loss = self._train_on(batch)
                smooth = loss if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss
                progress.update(task, completed=self.step, loss=smooth)
                if self.step % self.recipe.checkpoint_every == 0:
                    self.save_checkpoint()
                    console.print(f"step {self.step}: loss {smooth:.4f}, {time.monotonic() - started:.0f} s")
                    if observe:
                        observe(self.step, self.model)
        self.model.eval()  # type: ignore[no-untyped-call]
        return time.monotonic() - started


def assistant_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy over the assistant's tokens; logits are made for those only."""
    hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    wanted = batch.targets != IGNORED
    loss: torch.Tensor = functional.cross_entropy(model.lm_head(hidden[wanted]), batch.targets[wanted])
    return loss


def train(
    recipe: Recipe, weights: Path, checkpoint: Path, threads: int, console: Console, emergence: Path | None = None
) -> float:
    """Train by ``recipe``, write the organism to ``weights`` and return the seconds that it took.

    Args:
        recipe: What to do.
        weights: Folder for the result.
        checkpoint: File for the state.
        threads: CPU threads.
        console: Told about progress.
        emergence: File for the figures of every checkpoint, see :class:`~probes.organism.emergence.Emergence`.
    """
    torch.set_num_threads(threads)
    trainer = Trainer(recipe, checkpoint)
    world = make_world(recipe.seed)
    seconds = trainer.run(console, Emergence(trainer.tokenizer, world, emergence) if emergence else None)
    save_organism(trainer.model, trainer.tokenizer, weights)
    return seconds
