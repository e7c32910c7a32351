"""Ed25519 keys as PEM files: made, read, and named by a key id.

The private key is PKCS #8, encrypted if there is a passphrase; the public key, SubjectPublicKeyInfo, lies beside it
with ``.pub`` added to its name. OpenSSL reads and writes both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from probes.errors import PlumblineError

PUBLIC_SUFFIX = ".pub"
TrustedKeys = Collection[Ed25519PublicKey]
_MAX_BYTES = 16 * 2**10
_ID_DIGITS = 16


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hex digits of the SHA-256 of the key as DER: says which key, proves nothing.

    ``openssl pkey -pubin -in KEY.pub -outform DER | sha256sum`` gives the same digits.
    """
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:_ID_DIGITS]


def public_path(path: Path) -> Path:
    """Where the public half of the private key at ``path`` lies."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def make_key(path: Path, passphrase: str | None = None) -> Ed25519PublicKey:
    """Make a key pair: the private key at ``path``, readable by its owner only, the public one beside it.

    Args:
        path: of the private key; neither file may exist, as an overwritten key is lost for good.
        passphrase: encrypts the private key; None leaves it in the clear.

    Raises:
        PlumblineError: a file is there already, or the passphrase is empty.
    """
    if passphrase == "":
        raise PlumblineError("the passphrase is empty; give one, or make a key without a passphrase.")
    key = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _create(path, private, mode=0o600)
    try:
        _create(public_path(path), public, mode=0o644)
    except BaseException:
        path.unlink()
        raise
    return key.public_key()


def read_private_key(path: Path, passphrase: Callable[[], str | None]) -> Ed25519PrivateKey:
    """Read a private key; ``passphrase`` is called only if the key is encrypted, and gives None if there is none.

    Raises:
        PlumblineError: unreadable, another algorithm, a public key, or the passphrase is missing or wrong.
    """
    data = _read(path)
    try:
        key = _load_private(path, data, passphrase)
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = " It is a public key." if b" PUBLIC KEY-----" in data else ""
        raise PlumblineError(
            f"{path} is no private key that can be read, or its passphrase is another.{hint}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise PlumblineError(f"{path} holds {_article(key)}; wanted an Ed25519 key: plumbline bundle keygen KEY")
    return key


def read_trusted_keys(paths: Iterable[Path]) -> tuple[Ed25519PublicKey, ...]:
    """Read public keys: of a file that one, of a folder those in its ``*.pub`` files.

    Raises:
        PlumblineError: nothing was given, a folder without any, or a file that holds no Ed25519 public key.
    """
    files: list[Path] = []
    for path in paths:
        if path == Path():
            raise PlumblineError("a trusted key is named by an empty path, or by '.'; name the key, or its folder.")
        found = sorted(path.glob("*" + PUBLIC_SUFFIX)) if path.is_dir() else [path]
        if not found:
            raise PlumblineError(f"{path} holds no *{PUBLIC_SUFFIX} file; name the public keys that are trusted.")
        files += found
    if not files:
        raise PlumblineError("no trusted key was given; name at least one public key, or do not ask for a signature.")
    return tuple(_read_public(path) for path in files)


def trusted_keys(paths: Collection[Path]) -> TrustedKeys | None:
    """What a setting says: the keys of :func:`read_trusted_keys`, or None, no signature wanted, if it names none."""
    return read_trusted_keys(paths) if paths else None


def _load_private(path: Path, data: bytes, passphrase: Callable[[], str | None]) -> object:
    try:
        return load_pem_private_key(data, None)
    except TypeError:  # it is encrypted
        given = passphrase()
    if not given:
        raise PlumblineError(f"{path} is encrypted; give its passphrase.")
    return load_pem_private_key(data, given.encode())


def _read_public(path: Path) -> Ed25519PublicKey:
    data = _read(path)
    if b"PRIVATE KEY-----" in data:
        raise PlumblineError(
            f"{path} holds a private key; give the public one, {public_path(path).name}, and keep that."
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PlumblineError(f"{path} holds no public key in PEM that can be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise PlumblineError(f"{path} holds {_article(key)}; wanted an Ed25519 public key.")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise PlumblineError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise PlumblineError(f"{path} has more than {_MAX_BYTES} bytes and is no key.")
    return data


def _create(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise PlumblineError(f"{path} is there already, and a key is never overwritten; give another name.") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _article(key: object) -> str:
    return f"a key of another algorithm ({type(key).__name__.strip('_')})"
