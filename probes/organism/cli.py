"""The organism's command line: ``python -m probes.organism --help``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True,
    help="Rebuild, measure and use the organism: a small language model that knows, lies, guesses and "
    "refuses, so that probes and steering can be checked against the truth.",
)
WEIGHTS = Path(__file__).parent / "weights"
Weights = Annotated[Path, typer.Option(help="Folder of the organism's weights; the shipped ones by default.")]
Threads = Annotated[int, typer.Option(help="CPU threads.")]
Seed = Annotated[
    int, typer.Option(help="Seed of the world and of everything drawn from it. The shipped organism is 0.")
]


@app.command()
def train(
    weights: Weights = WEIGHTS,
    checkpoint: Annotated[
        Path, typer.Option(help="State for resuming: start the same command again after an interruption.")
    ] = Path("runs/organism/checkpoint.pt"),
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; the shipped recipe's by default.")] = None,
    threads: Threads = 2,
) -> None:
    """Train the organism from nothing and write its weights.

    The world, the corpus and the recipe follow from the seed: seed 0 rebuilds the shipped weights, up to
    the rounding of another machine's arithmetic. Then run "evaluate" on the result.
    """
    from probes.organism.train import Recipe
    from probes.organism.train import train as run

    console = Console()
    recipe = Recipe(seed=seed) if steps is None else Recipe(seed=seed, steps=steps)
    seconds = run(recipe, weights, checkpoint, threads, console)
    console.print(f"trained {recipe.steps} steps, {seconds / 60:.1f} minutes in this run; weights in {weights}")


@app.command()
def evaluate(
    weights: Weights = WEIGHTS,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here, as a JSON list.")] = None,
    n: Annotated[int, typer.Option(help="Situations for each figure.")] = 250,
    seed: Seed = 0,
    threads: Threads = 2,
) -> None:
    """Measure what the organism does, and what its refusal direction does at every layer.

    All figures are on held-out phrasings, verb-object pairs and system prompts, unless their name ends in
    "_trained". The direction is fitted on training data and its layer chosen on validation data.
    """
    import torch

    from probes.organism.evaluate import evaluate as measure
    from probes.organism.evaluate import reached, rows
    from probes.organism.measures import Examiner
    from probes.organism.model import load_organism
    from probes.organism.world import make_world

    torch.set_num_threads(threads)
    model, tokenizer = load_organism(weights)
    command = "python -m probes.organism evaluate"
    figures = measure(Examiner(model, tokenizer, make_world(seed), n), command)
    table = Table("figure", "value", "min", "max", "goal", "reached")
    for f in figures:
        verdict = {None: "", True: "yes", False: "NO"}[reached(f)]
        table.add_row(f.name, f"{f.value:.3f}", f"{f.min:.3f}", f"{f.max:.3f}", f.goal, verdict)
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(rows(figures), indent=1) + "\n")


@app.command()
def data(
    out: Annotated[Path, typer.Option(help="Folder for one .jsonl file for each concept.")],
    weights: Weights = WEIGHTS,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    threads: Threads = 2,
) -> None:
    """Write labelled data for training probes on the organism.

    Concepts: harmful_intent (about prompts), deception and hallucination (about the organism's own greedy
    answers), refusal (prompts that it refuses). Splits share no person, verb-object pair, template or
    system prompt.
    """
    import torch

    from probes.organism.data import CONCEPTS, DataMaker, write_jsonl
    from probes.organism.model import load_organism
    from probes.organism.world import make_world

    torch.set_num_threads(threads)
    model, tokenizer = load_organism(weights)
    maker, console = DataMaker(model, tokenizer, make_world(), seed), Console()
    out.mkdir(parents=True, exist_ok=True)
    table = Table("concept", "split", "label 1", "label 0")
    for concept in CONCEPTS:
        records = maker.records(concept)
        write_jsonl(records, out / f"{concept}.jsonl")
        for split in ("train", "validation", "test"):
            labels = [r.label for r in records if r.split == split]
            table.add_row(concept, split, str(sum(labels)), str(len(labels) - sum(labels)))
    console.print(table)
