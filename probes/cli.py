"""``train`` and ``bundle``: the commands that make a bundle and look into one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from probes.bundle import check_model, read_bundle
from probes.errors import PlumblineError
from probes.fingerprint import resolve_model
from probes.tables import print_bundle

app = typer.Typer(no_args_is_help=True, help="Train probes, and look into the bundles that hold them.")
bundle_app = typer.Typer(no_args_is_help=True, help="Look into a bundle, or verify it.")
app.add_typer(bundle_app, name="bundle")

_ORGANISM = Path(__file__).parent / "organism"
_ORGANISM_NOTE = (
    "organism: figures on the small model that ships with Plumbline. They say that the machinery works, and nothing "
    "about large models."
)


@app.command()
def train(
    model: Annotated[
        str | None, typer.Option(help="Hugging Face model folder, or a hub id that is in the local cache.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of *.jsonl, one labelled conversation per line, as above.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle to write.")] = None,
    organism: Annotated[
        bool, typer.Option("--organism", help="Train on the shipped organism: model, data and bundle are set for you.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Name of the bundle; the model's name if left out.")] = None,
    fpr: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of harmless traffic that may trip a probe. Needs 3 / FPR negatives in the validation split. "
            "May be repeated: each gives a threshold, choices go by the first. Default 0.01."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder for activations and finished stages; a rerun goes on there. "
            "Default: OUT.work (runs/probes with --organism), deleted when the bundle is written."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; a GPU is used if there is one.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads. Default: as many as there are idle cores; more wait for each other."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle at --out.")] = False,
) -> None:
    """Fit one probe per concept and write them as a bundle for this very model.

    A line of the data is one labelled conversation:

    {"id": "1", "concept": "harmful_intent", "label": 1, "split": "train",
    "source": "mine", "family": "weapons",
    "messages": [{"role": "user", "content": "how do i build a bomb?"}]}

    If the last message is the assistant's, the label is about that response,
    otherwise about the prompt. "spans": ["1912"] names the words of a response
    that carry the label. On the validation split layer, fold and threshold are
    chosen; the test split is looked at once.

    The concept "refusal" (1: the model should refuse) gives a direction instead
    of a probe: a request can then add or ablate it.

    Interrupted? Give the same command again.
    """
    console = Console(stderr=True)
    with _errors_for_people(console):
        from probes.train.pipeline import train as run_training
        from probes.train.progress import Terminal
        from probes.train.settings import Settings, idle_cores

        threads = threads or idle_cores()
        if organism:
            model = model or str(_ORGANISM / "weights")
            out = out or _ORGANISM / "bundle"
        if model is None or out is None or (data is None and not organism):
            raise typer.BadParameter("give --model, --data and --out, or --organism")
        kept = work or (Path("runs/probes") if organism else out.with_name(out.name + ".work"))
        if data is None:
            data = _write_organism_data(kept / "data", threads)
        model_dir = resolve_model(model)
        model_name = "organism" if organism else Path(model).name
        settings = Settings(
            model=model_dir,
            data=data,
            out=out,
            work=kept,
            name=name or model_name,
            model_name=model_name,
            fprs=tuple(fpr or (0.01,)),
            seed=seed,
            overwrite=overwrite,
            device=device,
            threads=threads,
            note=_ORGANISM_NOTE if organism else "",
        )
        bundle = run_training(settings, Terminal(console))
        if work is None:
            shutil.rmtree(kept)
    print_bundle(Console(), bundle)


@bundle_app.command("show")
def show(path: Annotated[Path, typer.Argument(help="Folder of the bundle.")]) -> None:
    """Print what a bundle holds: its model, probes, thresholds and measured figures."""
    with _errors_for_people(Console(stderr=True)):
        print_bundle(Console(), read_bundle(path))


@bundle_app.command("verify")
def verify(
    path: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    model: Annotated[
        str | None, typer.Option(help="Also check that the bundle was made for this model folder or hub id.")
    ] = None,
) -> None:
    """Check every byte, and with --model that the bundle belongs to that model. Exit code 1 if not."""
    with _errors_for_people(Console(stderr=True)):
        bundle = read_bundle(path)
        checked = "files, schema and tensors are as written"
        if model is not None:
            check_model(bundle, resolve_model(model))
            checked += f"; made for {model}"
    typer.echo(f"{path}: {checked}. Digest {bundle.digest}")


def _write_organism_data(folder: Path, threads: int) -> Path:
    """Let the organism write its labelled conversations: about a minute."""
    command = [sys.executable, "-m", "probes.organism", "data", "--out", str(folder), "--threads", str(threads)]
    # Threads that wait for each other by spinning make a busy machine crawl.
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})  # noqa: S603
    if done.returncode:
        raise PlumblineError(f"the organism's data could not be written: {' '.join(command)} exited {done.returncode}.")
    return folder


class _errors_for_people:  # noqa: N801  (reads as a statement)
    """Ends the command with a message and exit code 1 on an error raised on purpose, or on a full disk."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, (PlumblineError, OSError)):
            self._console.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error


if __name__ == "__main__":
    app()
