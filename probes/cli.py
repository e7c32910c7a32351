"""``train``, and the commands beside it: ``data``, ``bundle``, ``report`` and ``study``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.bundle_cli import app as bundle_app
from probes.data_cli import app as data_app
from probes.errors import PlumblineError
from probes.fingerprint import resolve_model
from probes.people import errors_for_people
from probes.report_cli import report
from probes.study_cli import app as study_app
from probes.tables import print_bundle

app = typer.Typer(no_args_is_help=True, help="Train probes, and look into the bundles that hold them.")
app.add_typer(data_app, name="data")
app.add_typer(bundle_app, name="bundle")
app.command()(report)
app.add_typer(study_app, name="study")


class ActivationType(StrEnum):
    """How activations are kept on disk."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Runner(StrEnum):
    """What runs the model."""

    transformers = "transformers"
    vllm = "vllm"


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
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            help="What to choose among: logistic, mass_mean, lda, ridge (of tokens or their means); softmax, attention "
            "(learned through their fold); multi_head_max (reported only, the engine cannot run it). May be repeated. "
            "Default: all."
        ),
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(min=0, help="Layer to choose among, from 0. May be repeated. Default: all.")
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(help="Concept, besides refusal, of which a steering direction is sought too. May be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=2, help="How often the best probes are fitted again.")] = 5,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained/--skip-untrained",
            help="Fit the chosen probe on the model with re-initialised weights too, as a control. Takes the memory of "
            "a second model.",
        ),
    ] = True,
    dtype: Annotated[
        ActivationType, typer.Option(help="In which activations are kept on disk; half the space, or all digits.")
    ] = ActivationType.fp32,
    through: Annotated[
        Runner, typer.Option(help="What runs the model to collect activations: the same numbers, vLLM faster.")
    ] = Runner.transformers,
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
    that carry the label. On the validation split layer, fold, estimator and
    threshold are chosen; the test split is looked at once. "shift": "paraphrase"
    sets a test example apart: it is measured under that name only.

    The concept "refusal" (1: the model should refuse) gives a direction instead
    of a probe: a request can then add or ablate it.

    Interrupted? Give the same command again.
    """
    console = Console(stderr=True)
    with errors_for_people(console):
        from probes.train.pipeline import train as run_training
        from probes.train.progress import Terminal
        from probes.train.settings import ESTIMATORS, Settings, idle_cores

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
            directions=tuple(direction or ()),
            estimators=tuple(estimator or ESTIMATORS),
            layers=tuple(layer or ()),
            n_seeds=seeds,
            untrained=untrained,
            dtype=dtype.value,
            through=through.value,
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


def _write_organism_data(folder: Path, threads: int) -> Path:
    """Let the organism write its labelled conversations: about a minute."""
    command = [sys.executable, "-m", "probes.organism", "data", "--out", str(folder), "--threads", str(threads)]
    # Threads that wait for each other by spinning make a busy machine crawl.
    done = subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": str(threads)})  # noqa: S603
    if done.returncode:
        raise PlumblineError(f"the organism's data could not be written: {' '.join(command)} exited {done.returncode}.")
    return folder


if __name__ == "__main__":
    app()
