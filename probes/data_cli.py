"""``plumbline data``: labelled data from public files to frozen splits and a shift suite."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console
from rich.table import Table

from probes.people import errors_for_people
from probes.train.duplicates import NEAR

app = typer.Typer(
    no_args_is_help=True,
    help="Labelled data for probes: import public sets, split them by source and template family, check for leaks, "
    "make a shift suite. In this order: import, split, check, shift, and then `plumbline train --data`.",
)


Data = Annotated[Path, typer.Argument(help="Folder of *.jsonl with splits.")]
Seed = Annotated[int, typer.Option(help="Of everything random: the same seed gives the same result.")]
Threshold = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Cosine from which two texts say almost the same; 1 is identical.")
]


@app.command("import")
def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, or hub ids that are in the local cache (hf download --repo-type dataset)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The *.jsonl to write. Use a folder for what is not split yet.")],
    layout: Annotated[
        str, typer.Option(help="Name of the columns' layout (see `data layouts`), if they fit several.")
    ] = "",
    label: Annotated[
        int | None, typer.Option(min=0, max=1, help="Label of every row, for sets whose rows have none.")
    ] = None,
    source: Annotated[str, typer.Option(help="Source to note; the layout's or the file's name if left out.")] = "",
    concept: Annotated[
        list[str] | None, typer.Option(help="Keep this concept only; may be repeated. All if left out.")
    ] = None,
    pattern: Annotated[str, typer.Option(help="Which files of a folder or hub id.")] = "**/*",
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows that cannot be used, and say how many.")
    ] = False,
) -> None:
    """Turn public files into labelled conversations.

    The layout is recognised by the columns. AdvBench's goal,target become
    prompts with label 1 for harmful_intent, for example:

    plumbline data import advbench.csv --out raw/advbench.jsonl

    Some sets keep harmful and harmless prompts in files that look the same;
    there, say which it is:

    plumbline data import harmless.json --label 0 --out raw/harmless.jsonl

    The result has no splits yet: `plumbline data split raw --out data`.
    """
    console = Console(stderr=True)
    with errors_for_people(console):
        from probes.train.freeze import write_lines
        from probes.train.sources.hub import resolve_files
        from probes.train.sources.importing import Choices, import_files

        choices = Choices(layout, cast("Literal[0, 1] | None", label), source, concept or (), skip_bad)
        paths = [path for name in files for path in resolve_files(name, pattern)]
        done = import_files(paths, choices)
        write_lines(done.unique.examples, out)
    for path, name in done.layouts.items():
        typer.echo(f"{path}: {name}")
    counts = Counter(f"{e.concept}/{e.label}" for e in done.unique.examples)
    typer.echo(f"{out}: {', '.join(f'{n} of {what}' for what, n in sorted(counts.items()))}, from {done.rows} rows")
    _say_left_out(
        {
            "repeated": done.unique.repeated,
            "with both labels": done.unique.contradictory,
            "rows without a label": done.unlabelled,
            "rows that could not be used": len(done.bad),
        }
    )
    for message in done.bad[:5]:
        typer.echo(f"  {message}")


@app.command()
def layouts() -> None:
    """List the layouts: which columns are recognised, and what their label means."""
    from probes.train.sources.table import LAYOUTS

    table = Table("layout", "data set", "columns", "concepts", "label 1")
    for layout in LAYOUTS.values():
        columns = ", ".join(sorted(layout.columns))
        table.add_row(layout.name, layout.title, columns, ", ".join(layout.concepts), layout.rule.replace("`", ""))
    Console().print(table)


@app.command()
def split(
    raw: Annotated[Path, typer.Argument(help="Folder of *.jsonl, as `import` writes them; splits in it are ignored.")],
    out: Annotated[Path, typer.Option(help="Folder to write: a file for each source, and splits.json.")],
    shares: Annotated[tuple[float, float, float], typer.Option(help="Wanted shares of train, validation and test.")] = (
        0.6,
        0.2,
        0.2,
    ),
    by: Annotated[
        Literal["family", "source"],
        typer.Option(help="What stays whole: a template family of a source, or a whole source."),
    ] = "family",
    seed: Seed = 0,
    duplicates: Annotated[
        Literal["refuse", "join", "drop"],
        typer.Option(help="Near-duplicates in two splits: refuse, join their groups, or drop the later one."),
    ] = "refuse",
    threshold: Threshold = NEAR,
    extend: Annotated[
        bool, typer.Option("--extend", help="Keep what splits.json froze, and place new conversations.")
    ] = False,
    renew: Annotated[
        bool, typer.Option("--renew", help="Forget what splits.json froze. Every figure must be measured again.")
    ] = False,
) -> None:
    """Assign train, validation and test, and freeze them.

    A template family is never in two splits: a probe that knows the template
    would look as if it knew the concept. Where the data names no family, it is
    the first three words of the prompt. splits.json freezes the result; `train`
    refuses data that does not match it.
    """
    console = Console(stderr=True)
    with errors_for_people(console):
        from probes.train.data import read_unsplit
        from probes.train.freeze import Policy, freeze
        from probes.train.progress import Terminal
        from probes.train.splits import Plan

        plan = Plan(shares, seed, by)
        policy = Policy(duplicates, threshold, extend, renew)
        done = freeze(read_unsplit(raw), out, plan, policy, Terminal(console))
        _print_counts(out)
    _say_left_out(
        {
            "repeated": done.unique.repeated,
            "with both labels": done.unique.contradictory,
            "near-duplicates": done.dropped,
        }
    )


@app.command()
def check(data: Data, threshold: Threshold = NEAR) -> None:
    """Check a folder as training would, then look for leaks. Exit code 1 if there are any.

    Schema, labels in every split, the lock, and near-duplicates across splits.
    """
    console = Console(stderr=True)
    with errors_for_people(console):
        from probes.errors import DataError
        from probes.train.data import read_dataset
        from probes.train.freeze import describe
        from probes.train.leaks import across_splits
        from probes.train.lock import LOCK_FILE
        from probes.train.progress import Terminal

        dataset = read_dataset(data)
        _print_counts(data)
        examples = [e for part in dataset.examples.values() for e in part]
        if pairs := across_splits(examples, Terminal(console), threshold):
            raise DataError(describe(pairs, threshold))
        locked = (data / LOCK_FILE).exists()
    lock = "frozen in splits.json" if locked else "not frozen: `plumbline data split` writes splits.json"
    typer.echo(f"no near-duplicates across splits (cosine ≥ {threshold:g}); {lock}; digest {dataset.digest}")


@app.command()
def shift(
    data: Data,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--shift",
            help="long_context, several_turns, quoted, role_play or decoys; may be repeated. All if left out.",
        ),
    ] = None,
    pool: Annotated[
        Path | None,
        typer.Option(help="Benign texts to stand around a request, one a line. Default: negatives of the test split."),
    ] = None,
    factor: Annotated[
        int, typer.Option(min=2, max=50, help="Most that long_context lengthens a request. Mind the model's context.")
    ] = 50,
    per_label: Annotated[int, typer.Option(min=1, help="At most so many examples for each concept and label.")] = 200,
    seed: Seed = 0,
) -> None:
    """Make a shift suite from the test split: the same requests in other surroundings.

    Writes shift-NAME.jsonl into the folder. Training leaves these examples out
    and measures them apart, at the unchanged threshold.
    """
    console = Console(stderr=True)
    with errors_for_people(console):
        from probes.train.data import read_dataset
        from probes.train.freeze import SHIFT_PREFIX, write_lines
        from probes.train.progress import Terminal
        from probes.train.sources.shifts import SHIFTS, benign_pool, choose
        from probes.train.sources.shifts import shift as shifted

        dataset = read_dataset(data)
        lines = pool.read_text(encoding="utf-8-sig").splitlines() if pool else None
        names = tuple(name or SHIFTS)
        with Terminal(console).track("shifting", len(names), "shifts") as advance:
            for each in names:
                made = []
                for concept in dataset.examples:
                    test = dataset.split(concept, "test")
                    texts = benign_pool(test) if lines is None else lines
                    made += shifted(choose(test, per_label, seed), each, texts, seed=seed, factor=factor)
                write_lines(made, data / f"{SHIFT_PREFIX}{each}.jsonl")
                advance(1)
        _print_counts(data)


def _print_counts(folder: Path) -> None:
    from probes.train.data import read_dataset

    for concept, counts in read_dataset(folder).counts().items():
        typer.echo(f"{concept}: {', '.join(f'{what} {n}' for what, n in counts.items())}")


def _say_left_out(counts: dict[str, int]) -> None:
    if left := [f"{n} {what}" for what, n in counts.items() if n]:
        typer.echo(f"left out: {', '.join(left)}")


if __name__ == "__main__":
    app()
