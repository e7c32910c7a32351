"""``plumbline bundle``: look into bundles, sign and verify them, compare, merge and convert them."""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.bundle import (
    Rename,
    check_model,
    diff_bundles,
    key_id,
    make_key,
    merge_bundles,
    migrate_bundle,
    read_bundle,
    read_private_key,
    sign_bundle,
    trusted_keys,
    write_bundle,
)
from probes.bundle.keys import public_path
from probes.diff_table import print_diff
from probes.errors import PlumblineError
from probes.fingerprint import resolve_model
from probes.people import errors_for_people
from probes.tables import print_bundle

TRUSTED = "PLUMBLINE_TRUSTED_KEYS"
PASSPHRASE = "PLUMBLINE_KEY_PASSPHRASE"  # noqa: S105  (the name of a variable)
_TROUBLE = 2  # as of diff(1), whose 1 means that something differs
_RENAME = re.compile(r"(?:([1-9][0-9]*):)?([^=:]+)=([^=:]+)")

app = typer.Typer(no_args_is_help=True, help="Look into bundles; sign, verify, compare, merge and convert them.")

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")]
TrustedKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--key",
        envvar=TRUSTED,
        help="Public key that must have signed it, or a folder of *.pub files; repeatable, any one of them will do. "
        "In the variable, separated by colons.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")]


@app.command()
def show(path: BundlePath) -> None:
    """Print what a bundle holds: model, probes, thresholds, and what its card says was measured."""
    with errors_for_people(Console(stderr=True)):
        print_bundle(Console(), read_bundle(path))


@app.command()
def verify(
    path: BundlePath,
    key: TrustedKeys = None,
    model: Annotated[
        str | None, typer.Option(help="Also check that the bundle was made for this model folder or hub id.")
    ] = None,
) -> None:
    """Check every byte; with --key who signed it, with --model which model it is for. Exit status 1 if not."""
    with errors_for_people(Console(stderr=True)):
        bundle = read_bundle(path, trusted=trusted_keys(_named(key)))
        checked = "files, schema and tensors are as written"
        if bundle.signed_by is not None:
            checked += f"; signed by the trusted key {bundle.signed_by}"
        elif bundle.signature is not None:
            checked += f"; the signature was not checked (give --key; it names the key {bundle.signature.key_id})"
        else:
            checked += "; not signed"
        if model is not None:
            check_model(bundle, resolve_model(model))
            checked += f"; made for {model}"
    typer.echo(f"{path}: {checked}. Digest {bundle.digest}")


@app.command()
def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEY", help="File for the private key; KEY.pub gets the public one.")],
    *,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase", help=f"Ask for a passphrase that encrypts the key. {PASSPHRASE} sets one without asking."
        ),
    ] = False,
) -> None:
    """Make an Ed25519 key pair to sign bundles with. Files that are there are never overwritten."""
    with errors_for_people(Console(stderr=True)):
        given = os.environ.get(PASSPHRASE)
        if given is None and passphrase:
            given = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
        made = make_key(key, given)
    protection = "encrypted" if given else "not encrypted: guard the file"
    typer.echo(f"{key}: private key {key_id(made)}, {protection}\n{public_path(key)}: public key, to hand out")


@app.command()
def sign(
    path: BundlePath,
    key: Annotated[Path, typer.Option(metavar="KEY", help="Private key, as keygen or OpenSSL writes it.")],
    *,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the signature that is there.")] = False,
) -> None:
    """Sign a bundle, once everything in it has been checked.

    The passphrase of an encrypted key is asked for, or comes from PLUMBLINE_KEY_PASSPHRASE.
    """
    with errors_for_people(Console(stderr=True)):
        bundle = sign_bundle(path, read_private_key(key, _passphrase), replace=replace)
    typer.echo(f"{path}: signed with the key {bundle.signed_by}. Digest {bundle.digest}")


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of one bundle.")],
    after: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the other.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every value in full.")] = False,
) -> None:
    """Print what differs between two bundles. Exit status 0: nothing, 1: something, 2: they cannot be compared."""
    try:
        with errors_for_people(Console(stderr=True)):
            found = diff_bundles(read_bundle(before), read_bundle(after))
    except typer.Exit as error:
        raise typer.Exit(_TROUBLE) from error
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        print_diff(Console(), found)
    raise typer.Exit(0 if found.equal else 1)


@app.command()
def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Folders of two or more bundles.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle to write.")],
    *,
    name: Annotated[str | None, typer.Option(help="Name of the new bundle; that of the first if left out.")] = None,
    version: Annotated[str, typer.Option(help="Version of the new bundle.")] = "1",
    rename: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[N:]OLD=NEW",
            help="Another name for a probe or direction of the N-th bundle; without N, of the last that has it. "
            "Repeatable.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put several bundles for the same model into one, with their cards. The result is not signed."""
    with errors_for_people(Console(stderr=True)):
        bundles = [read_bundle(path) for path in paths]
        merged = merge_bundles(
            bundles,
            name=name or bundles[0].manifest.name,
            version=version,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            renames=[_rename(text) for text in rename or ()],
        )
        bundle = write_bundle(out, merged.manifest, merged.tensors, card=merged.card, overwrite=overwrite)
    print_bundle(Console(), bundle)


@app.command()
def migrate(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of a bundle of an earlier schema version.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Folder of the bundle to write.")],
    *,
    overwrite: Overwrite = False,
) -> None:
    """Convert a bundle of an earlier schema version into a new folder. The result is not signed; OLD stays."""
    with errors_for_people(Console(stderr=True)):
        bundle = migrate_bundle(old, new, overwrite=overwrite)
    typer.echo(f"{new}: converted from {old}, not signed. Digest {bundle.digest}")


def _named(keys: list[Path] | None) -> list[Path]:
    """The keys that were named; an empty variable is refused, since somebody meant to demand signatures."""
    if not keys and TRUSTED in os.environ:
        raise PlumblineError(f"{TRUSTED} names an empty path; name public keys, or unset it.")
    return keys or []


def _rename(text: str) -> Rename:
    found = _RENAME.fullmatch(text)
    if found is None:
        raise PlumblineError(f"--rename: got {text!r}, wanted OLD=NEW or N:OLD=NEW, such as 2:deception=deception_b.")
    return Rename(old=found[2], new=found[3], bundle=int(found[1]) - 1 if found[1] else None)


def _passphrase() -> str | None:
    """Of an encrypted key: from the environment, or from the person at the terminal, if there is one."""
    given = os.environ.get(PASSPHRASE)
    if given is None and sys.stdin.isatty():
        given = str(typer.prompt("Passphrase", hide_input=True, err=True))
    return given
