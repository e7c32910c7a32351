"""``plumbline study``: further experiments on a bundle's probes, and their tables in its card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probes.bundle import Bundle, check_model, read_bundle
from probes.cards import Failure, Study
from probes.errors import DataError
from probes.fingerprint import fingerprint_model, resolve_model
from probes.people import errors_for_people
from probes.report.text import anything
from probes.train.studies.into import extend_card

if TYPE_CHECKING:  # torch takes seconds to load: --help does not wait for it
    from probes.train.data import Dataset
    from probes.train.model import LoadedModel
    from probes.train.progress import Reporter
    from probes.train.studies.material import Material

app = typer.Typer(
    no_args_is_help=True,
    help="Look further into a bundle's probes: sparse autoencoder, attribution, audit against evasion.",
)

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")]
ModelName = Annotated[str, typer.Option(help="The model that the bundle was made for: a folder, or a hub id.")]
DataPath = Annotated[Path, typer.Option(help="Folder of *.jsonl, the data that the bundle was trained on.")]
Most = Annotated[
    int | None, typer.Option(min=1, help="Examples of each split and label at most, drawn at random. Default: all.")
]
Work = Annotated[
    Path | None, typer.Option(help="Folder for activations, for a rerun. Default: a temporary one, deleted at the end.")
]
Into = Annotated[
    Path | None,
    typer.Option(
        metavar="BUNDLE",
        help="Write the result into the card of this bundle, so that `plumbline report` shows it. A signature is "
        "dropped: sign again.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; a GPU is used if there is one.")]


class Estimator(StrEnum):
    """Estimators of rows."""

    logistic = "logistic"
    mass_mean = "mass_mean"
    lda = "lda"
    ridge = "ridge"


@dataclass(frozen=True)
class _Bench:
    """What every study begins with."""

    bundle: Bundle
    model: LoadedModel
    dataset: Dataset
    folder: Path
    reporter: Reporter
    most: int | None
    seed: int

    def material(self, concept: str) -> Material:
        """The examples of one concept."""
        from probes.train.studies.material import read_material

        return read_material(
            self.dataset, concept, self.model, self.folder, self.reporter, most=self.most, seed=self.seed
        )


@app.command()
def sae(
    bundle: BundlePath,
    model: ModelName,
    data: DataPath,
    concept: Annotated[
        list[str] | None, typer.Option(help="Probe of the bundle to compare with; repeatable. Default: all.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Layer to decompose, from 0. Default: that of the first probe.")
    ] = None,
    features: Annotated[int | None, typer.Option(min=2, help="Width of the dictionary. Default: 4 x d_model.")] = None,
    active: Annotated[int, typer.Option(min=1, help="Features that may be active at once (k).")] = 16,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 10,
    most: Most = None,
    work: Work = None,
    into: Into = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Train a TopK sparse autoencoder on one layer; do its features beat the plain probes?

    Features, their number and penalties are chosen on training and validation
    data, the test split is looked at once, and AUROCs are compared in pairs.
    Where the features do not beat the probe, that is written down as what did
    not work.
    """
    with _bench(bundle, model, data, most, work, seed, device) as bench:
        from probes.train.studies.dictionary import Recipe
        from probes.train.studies.sae import study_autoencoder
        from probes.train.studies.served import served_probe

        served = [served_probe(bench.bundle, name) for name in concept or _concepts(bench)]
        recipe = Recipe(features or 4 * bench.model.d_model, k=active, epochs=epochs, seed=seed)
        studies, failures = study_autoencoder(
            bench.model,
            [(bench.material(probe.name), probe) for probe in served],
            served[0].layer if layer is None else layer,
            recipe,
            bench.reporter,
        )
        _publish(bench, studies, failures, into)


@app.command()
def attribute(
    bundle: BundlePath,
    model: ModelName,
    data: DataPath,
    concept: Annotated[list[str] | None, typer.Option(help="Probe of the bundle; repeatable. Default: all.")] = None,
    most: Most = None,
    work: Work = None,
    into: Into = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """What trips a probe: which tokens, attention heads and MLPs, on the test split.

    The shares of heads and MLPs are exact and add up to the score. The
    attribution to tokens is a first-order estimate, so that it comes with a test:
    do scores fall more without the tokens it names than without random ones?
    """
    with _bench(bundle, model, data, most, work, seed, device) as bench:
        from probes.train.studies.attribution import study_attribution
        from probes.train.studies.served import served_probe

        studies: list[Study] = []
        failures: list[Failure] = []
        for name in concept or _concepts(bench):
            probe, part = served_probe(bench.bundle, name), bench.material(name).parts["test"]
            found = study_attribution(bench.model, probe, part, bench.reporter, seed)
            studies, failures = studies + found[0], failures + found[1]
        _publish(bench, studies, failures, into)


@app.command()
def audit(
    bundle: BundlePath,
    model: ModelName,
    data: DataPath,
    concept: Annotated[str, typer.Option(help="Probe of the bundle.")],
    after: Annotated[
        str | None, typer.Option(help="The same model after a fine-tune: does it evade the deployed probe?")
    ] = None,
    estimator: Annotated[Estimator, typer.Option(help="Of the deployed probe.")] = Estimator.logistic,
    audit_estimator: Annotated[Estimator, typer.Option(help="Of the audit probe.")] = Estimator.lda,
    audit_layer: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Layer to choose among for the audit probe; repeatable. Default: all other layers."),
    ] = None,
    fpr: Annotated[float, typer.Option(help="Allowed false-positive rate. Needs 3 / FPR validation negatives.")] = 0.01,
    margin: Annotated[float, typer.Option(min=0, max=1, help="Fall of the TPR that counts as lost.")] = 0.1,
    most: Most = None,
    work: Work = None,
    into: Into = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Fit an audit probe that shares no template family with the deployed one.

    Both are compared on the test split. With --after both are also read on a
    fine-tuned model, and so is the bundle's own probe: evaded means that a
    deployed probe lost sight while the audit probe still sees. Keep audit probes
    secret: what is trained against them evades them as well.
    """
    with _bench(bundle, model, data, most, work, seed, device) as bench:
        from probes.train.checkpoint import key_of
        from probes.train.model import load_model
        from probes.train.studies.audit import study_agreement, study_evasion
        from probes.train.studies.halves import Choice, fit_halves
        from probes.train.studies.served import served_probe

        served, material = served_probe(bench.bundle, concept), bench.material(concept)
        others = tuple(i for i in range(len(bench.model.layers)) if i != served.layer) or (served.layer,)
        halves = fit_halves(
            bench.model,
            material,
            Choice(estimator.value, (served.layer,)),
            Choice(audit_estimator.value, tuple(audit_layer or others)),
            fpr=fpr,
            seed=seed,
        )
        studies = [study_agreement(bench.model, material, halves, seed)]
        failures: list[Failure] = []
        if after is not None:
            folder = resolve_model(after)
            study, failures = study_evasion(
                bench.model,
                load_model(folder, device),
                material,
                (halves.deployed, served),
                halves.audit,
                name=folder.name,
                key=key_of(fingerprint_model(folder).model_dump()),
                margin=margin,
                seed=seed,
            )
            studies.append(study)
        _publish(bench, studies, failures, into)


@contextmanager
def _bench(
    path: Path, model: str, data: Path, most: int | None, work: Path | None, seed: int, device: str | None
) -> Iterator[_Bench]:
    """Read everything, checked before the work begins."""
    console = Console(stderr=True)
    with errors_for_people(console), tempfile.TemporaryDirectory() as scratch:
        from probes.train.checkpoint import key_of
        from probes.train.data import read_dataset
        from probes.train.model import load_model
        from probes.train.progress import Terminal

        bundle, folder = read_bundle(path), resolve_model(model)
        check_model(bundle, folder)
        dataset = read_dataset(data)
        kept = (work or Path(scratch)) / key_of(bundle.manifest.model.fingerprint.model_dump(), dataset.digest)
        yield _Bench(bundle, load_model(folder, device), dataset, kept, Terminal(console), most, seed)


def _concepts(bench: _Bench) -> list[str]:
    """Probes of the bundle of which there is data."""
    names = [p.name for p in bench.bundle.manifest.probes]
    found = [name for name in names if name in bench.dataset.examples]
    if not found:
        raise DataError(
            f"the data has {', '.join(bench.dataset.examples)}; the bundle has probes for {', '.join(names)}."
        )
    return found


def _publish(bench: _Bench, studies: Sequence[Study], failures: Sequence[Failure], into: Path | None) -> None:
    """Write into a card if that is asked for, and print."""
    console = Console()
    signed = into is not None and extend_card(into, bench.bundle, studies, failures)
    for study in studies:
        table = Table(
            title=escape(study.title), title_justify="left", caption=escape(study.text), caption_justify="left"
        )
        for name in study.columns:
            table.add_column(escape(name))
        for row in study.rows:
            table.add_row(*(escape(anything(cell)) for cell in row))
        console.print(table)
    for failure in failures:
        console.print(f"did not work: {failure.what}; found: {failure.found}", markup=False, highlight=False)
    if into is not None:
        console.print(f"{into}: {len(studies)} studies written into its card.", highlight=False)
        if signed:
            console.print("Its signature is dropped, because the card changed: sign again (plumbline bundle sign).")
