"""Signed bundles: whose signature is accepted, what is refused, and that others verify the same bytes."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from bundle_samples import make_card, make_manifest, make_tensors, reseal
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from probes.bundle import (
    Bundle,
    key_id,
    make_key,
    read_bundle,
    read_private_key,
    read_trusted_keys,
    sign_bundle,
    write_bundle,
)
from probes.errors import BundleFormatError, PlumblineError

KEY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))
TRUSTED = [KEY.public_key()]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", make_manifest(), make_tensors(), card=make_card())


@pytest.fixture
def signed(bundle: Bundle) -> Bundle:
    return sign_bundle(bundle.path, KEY)


def no_passphrase() -> str | None:
    raise AssertionError("nobody should be asked")


def rewrite(bundle: Bundle, **changes: object) -> None:
    path = bundle.path / "bundle.sig"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_signed_bundle_is_read_by_whoever_trusts_its_key(bundle: Bundle, signed: Bundle) -> None:
    found = read_bundle(bundle.path, trusted=[STRANGER.public_key(), KEY.public_key()])
    assert found.signed_by == signed.signed_by == key_id(KEY.public_key())
    assert found.digest == bundle.digest
    assert sorted(p.name for p in bundle.path.iterdir()) == [
        "SHA256SUMS", "bundle.json", "bundle.sig", "card.json", "tensors.safetensors",
    ]  # fmt: skip


def test_without_trusted_keys_a_signature_says_only_who_claims_to_have_signed(signed: Bundle) -> None:
    rewrite(signed, signature="00" * 64)
    found = read_bundle(signed.path)
    assert found.signature is not None
    assert found.signature.key_id == key_id(KEY.public_key())
    assert found.signed_by is None


def test_an_unsigned_bundle_is_refused_where_a_signature_is_wanted(bundle: Bundle) -> None:
    with pytest.raises(
        BundleFormatError, match=f"is not signed; wanted a signature by a trusted key.*{key_id(*TRUSTED)}"
    ):
        read_bundle(bundle.path, trusted=TRUSTED)


def test_the_key_of_a_stranger_is_refused_naming_both(signed: Bundle) -> None:
    ours, theirs = key_id(KEY.public_key()), key_id(STRANGER.public_key())
    with pytest.raises(BundleFormatError, match=f"signed with the key {ours}, which is not trusted; trusted: {theirs}"):
        read_bundle(signed.path, trusted=[STRANGER.public_key()])


def test_a_strangers_signature_under_a_trusted_name_is_refused(signed: Bundle) -> None:
    sign_bundle(signed.path, STRANGER, replace=True)
    rewrite(signed, key_id=key_id(KEY.public_key()))
    with pytest.raises(BundleFormatError, match="no signature of this bundle by the key"):
        read_bundle(signed.path, trusted=TRUSTED)


def test_nobody_is_trusted_where_the_set_of_trusted_keys_is_empty(signed: Bundle) -> None:
    with pytest.raises(BundleFormatError, match="not trusted; trusted: none"):
        read_bundle(signed.path, trusted=[])


def test_a_signature_over_another_bundle_is_refused(signed: Bundle, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", make_manifest(), make_tensors(seed=1))
    shutil.copy(signed.path / "bundle.sig", other.path)
    with pytest.raises(BundleFormatError, match="the signature belongs to another bundle"):
        read_bundle(other.path, trusted=TRUSTED)


@pytest.mark.parametrize("name", ["bundle.json", "card.json", "tensors.safetensors"])
def test_what_is_changed_and_sealed_again_after_signing_is_refused(signed: Bundle, name: str) -> None:
    with (signed.path / name).open("ab") as file:
        file.write(b"\n")
    reseal(signed.path)
    with pytest.raises(BundleFormatError, match="SHA256SUMS was changed after signing"):
        read_bundle(signed.path, trusted=TRUSTED)


@pytest.mark.parametrize("position", [0, 31, 32, 63])
def test_every_part_of_the_signature_counts(signed: Bundle, position: int) -> None:
    assert signed.signature is not None
    changed = bytearray.fromhex(signed.signature.signature)
    changed[position] ^= 1
    rewrite(signed, signature=changed.hex())
    with pytest.raises(BundleFormatError, match="no signature of this bundle"):
        read_bundle(signed.path, trusted=TRUSTED)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "rsa"},
        {"algorithm": "none"},
        {"signature": ""},
        {"signature": "0" * 126},
        {"key_id": "x"},
        {"x": 1},
    ],
)
@pytest.mark.parametrize("trusted", [None, TRUSTED], ids=["anybody", "trusted"])
def test_a_malformed_signature_is_refused_even_where_none_is_wanted(
    signed: Bundle, changes: dict[str, object], trusted: list[Ed25519PublicKey] | None
) -> None:
    rewrite(signed, **changes)
    with pytest.raises(BundleFormatError, match=r"bundle\.sig is no signature of this format.*--replace"):
        read_bundle(signed.path, trusted=trusted)


def test_the_signature_is_the_one_that_cryptography_makes_and_verifies(signed: Bundle) -> None:
    sums = (signed.path / "SHA256SUMS").read_bytes()
    assert signed.signature is not None
    signature = bytes.fromhex(signed.signature.signature)
    assert signature == KEY.sign(sums)  # Ed25519 is deterministic
    KEY.public_key().verify(signature, sums)
    with pytest.raises(InvalidSignature):
        KEY.public_key().verify(signature, sums + b"\n")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL")
def test_openssl_verifies_the_signature_and_agrees_on_the_id_of_the_key(bundle: Bundle, tmp_path: Path) -> None:
    public = make_key(tmp_path / "key")
    signed = sign_bundle(bundle.path, read_private_key(tmp_path / "key", no_passphrase))
    assert signed.signature is not None
    (tmp_path / "raw").write_bytes(bytes.fromhex(signed.signature.signature))
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", tmp_path / "key.pub",
         "-in", signed.path / "SHA256SUMS", "-sigfile", tmp_path / "raw"],
        check=True, capture_output=True,
    )  # fmt: skip
    der = ["openssl", "pkey", "-pubin", "-in", tmp_path / "key.pub", "-outform", "DER"]
    exported = subprocess.run(der, check=True, capture_output=True).stdout
    told = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=exported, check=True, capture_output=True)
    assert told.stdout.decode()[:16] == key_id(public)


def test_a_signature_is_replaced_only_on_request(signed: Bundle) -> None:
    with pytest.raises(BundleFormatError, match="has a signature already"):
        sign_bundle(signed.path, STRANGER)
    assert sign_bundle(signed.path, STRANGER, replace=True).signed_by == key_id(STRANGER.public_key())


def test_an_altered_bundle_is_not_signed(bundle: Bundle) -> None:
    (bundle.path / "card.json").write_text("{}")
    with pytest.raises(BundleFormatError, match="altered"):
        sign_bundle(bundle.path, KEY)
    assert not (bundle.path / "bundle.sig").exists()


def test_overwriting_a_signed_bundle_takes_the_signature_away(signed: Bundle) -> None:
    write_bundle(signed.path, make_manifest(), make_tensors(seed=1), overwrite=True)
    assert read_bundle(signed.path).signature is None


@pytest.mark.parametrize("passphrase", [None, "räuber"])
def test_a_key_pair_reads_back_and_only_its_owner_may_read_the_private_half(
    tmp_path: Path, passphrase: str | None
) -> None:
    public = make_key(tmp_path / "key", passphrase)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read_private_key(tmp_path / "key", lambda: passphrase).public_key() == public
    assert read_trusted_keys([tmp_path / "key.pub"]) == (public,) == read_trusted_keys([tmp_path])
    # The same files through the library directly.
    password = passphrase.encode() if passphrase else None
    assert load_pem_private_key((tmp_path / "key").read_bytes(), password).public_key() == public
    assert load_pem_public_key((tmp_path / "key.pub").read_bytes()) == public


@pytest.mark.parametrize("taken", ["key", "key.pub"])
def test_a_key_is_never_overwritten_and_half_a_pair_never_made(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(PlumblineError, match="never overwritten"):
        make_key(tmp_path / "key")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(taken, "mine")]


def test_an_empty_passphrase_is_none(tmp_path: Path) -> None:
    with pytest.raises(PlumblineError, match="empty"):
        make_key(tmp_path / "key", "")


@pytest.mark.parametrize(
    ("given", "message"), [(None, "encrypted; give its passphrase"), ("wrong", "its passphrase is another")]
)
def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path, given: str | None, message: str) -> None:
    make_key(tmp_path / "key", "right")
    with pytest.raises(PlumblineError, match=message):
        read_private_key(tmp_path / "key", lambda: given)


OTHER_KEYS = {
    "RSA": rsa.generate_private_key(65537, 1024),
    "EC": ec.generate_private_key(ec.SECP256R1()),
    "X25519": x25519.X25519PrivateKey.generate(),
}


@pytest.mark.parametrize("algorithm", OTHER_KEYS)
def test_keys_of_another_algorithm_are_refused_by_name(tmp_path: Path, algorithm: str) -> None:
    key = OTHER_KEYS[algorithm]
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(public)
    for read in (lambda: read_private_key(tmp_path / "key", no_passphrase), lambda: read_trusted_keys([tmp_path])):
        with pytest.raises(PlumblineError, match=f"another algorithm .*{algorithm}.*wanted an Ed25519"):
            read()


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    (tmp_path / "junk").write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    (tmp_path / "huge").write_bytes(bytes(10**6))
    for call, message in {
        lambda: read_trusted_keys([tmp_path / "key"]): r"holds a private key; give the public one, key\.pub",
        lambda: read_private_key(tmp_path / "key.pub", no_passphrase): "It is a public key",
        lambda: read_trusted_keys([tmp_path / "junk"]): "holds no public key",
        lambda: read_trusted_keys([tmp_path / "huge"]): "is no key",
        lambda: read_trusted_keys([tmp_path / "absent"]): "cannot be read",
        lambda: read_trusted_keys([]): "no trusted key was given",
    }.items():
        with pytest.raises(PlumblineError, match=message):
            call()
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlumblineError, match=r"holds no \*\.pub file"):
        read_trusted_keys([tmp_path / "empty"])


def test_signing_never_writes_through_a_link_that_was_laid_in_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (bundle.path / "..bundle.sig").symlink_to(victim)
    sign_bundle(bundle.path, KEY)
    assert victim.read_text() == "mine"
    assert read_bundle(bundle.path, trusted=TRUSTED).signed_by is not None


def test_an_empty_path_trusts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_key(tmp_path / "stranger")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlumblineError, match="empty path"):
        read_trusted_keys([Path()])
