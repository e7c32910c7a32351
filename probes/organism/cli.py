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
MISSED = 3  # exit status of "evaluate" where a goal is missed; 1 and 2 are Python's and the command line's own
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
    twin: Annotated[
        bool,
        typer.Option("--twin", help="The control: the same conversations, but harmful requests are never refused."),
    ] = False,
    emergence: Annotated[
        Path | None,
        typer.Option(help="Write figures of every checkpoint here (JSON), and its weights into the folder beside it."),
    ] = None,
    threads: Threads = 2,
) -> None:
    """Train the organism from nothing and write its weights.

    The world, the corpus and the recipe follow from the seed: seed 0 rebuilds the shipped weights, up to
    the rounding of another machine's arithmetic. Then run "evaluate" on the result. Give another --weights and
    --checkpoint for another seed or the twin.
    """
    from probes.organism.train import Recipe
    from probes.organism.train import train as run

    console = Console()
    recipe = Recipe(seed=seed, twin=twin) if steps is None else Recipe(seed=seed, steps=steps, twin=twin)
    seconds = run(recipe, weights, checkpoint, threads, console, emergence)
    console.print(f"trained {recipe.steps} steps, {seconds / 60:.1f} minutes in this run; weights in {weights}")


@app.command()
def evaluate(
    weights: Weights = WEIGHTS,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here, as a JSON list.")] = None,
    n: Annotated[int, typer.Option(help="Situations for each figure.")] = 250,
    seed: Seed = 0,
    twin: Annotated[
        Path | None, typer.Option(help="Weights of the same seed's twin, which never saw a refusal, as the control.")
    ] = None,
    threads: Threads = 2,
) -> None:
    """Measure what the organism does, and what its refusal direction does at every layer.

    All figures are on held-out phrasings, verb-object pairs and system prompts, unless their name ends in
    "_trained". The direction is fitted on training data and its layer chosen on validation data. Exits with 3 if a
    figure misses its goal.
    """
    import torch

    from probes.organism.evaluate import evaluate as measure
    from probes.organism.evaluate import reached, rows
    from probes.organism.measures import Examiner
    from probes.organism.model import load_organism
    from probes.organism.world import make_world

    torch.set_num_threads(threads)
    model, tokenizer = load_organism(weights)
    command, world = "python -m probes.organism evaluate", make_world(seed)
    control = Examiner(*load_organism(twin), world, n) if twin else None
    figures = measure(Examiner(model, tokenizer, world, n), command, control)
    table = Table("figure", "value", "min", "max", "goal", "reached")
    for f in figures:
        verdict = {None: "", True: "yes", False: "NO"}[reached(f)]
        table.add_row(f.name, f"{f.value:.3f}", f"{f.min:.3f}", f"{f.max:.3f}", f.goal, verdict)
    Console().print(table)
    if json_path is not None:
        json_path.write_text(json.dumps(rows(figures), indent=1) + "\n")
    if any(reached(f) is False for f in figures):
        raise typer.Exit(MISSED)


@app.command()
def data(
    out: Annotated[Path, typer.Option(help="Folder for one .jsonl file for each concept, and the lock of the splits.")],
    weights: Weights = WEIGHTS,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    world: Annotated[int, typer.Option(help="Seed of the world: the one that the weights were trained with.")] = 0,
    threads: Threads = 2,
) -> None:
    """Write labelled data for training probes on the organism.

    Concepts: harmful_intent (about prompts), deception and hallucination (about the organism's own greedy
    answers), refusal (prompts that it refuses). Splits share no person, verb-object pair, template or
    system prompt. Words do not tell the labels: see probes/organism/intent.py and deceit.py. The test split also has
    examples under distribution shifts.
    """
    import torch

    from probes.organism.data import CONCEPTS, DataMaker, write_data
    from probes.organism.model import load_organism
    from probes.organism.world import make_world

    torch.set_num_threads(threads)
    model, tokenizer = load_organism(weights)
    maker, console = DataMaker(model, tokenizer, made := make_world(world), seed), Console()
    examples = {}
    for concept in CONCEPTS:
        with console.status(f"{concept}: the organism answers"):
            examples[concept] = maker.examples(concept)
    write_data(examples, made, out)
    table = Table("concept", "split", "label 1", "label 0")
    for concept, rows in examples.items():
        for part in sorted({e.shift or e.split for e in rows}):
            labels = [e.label for e in rows if (e.shift or e.split) == part]
            table.add_row(concept, part, str(sum(labels)), str(len(labels) - sum(labels)))
    console.print(table)
