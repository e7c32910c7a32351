"""Bundles made to do harm, or cut short: each is refused with a message, and nothing outside of it is read."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_samples import make_card, make_manifest, make_tensors, reseal
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.bundle import Bundle, read_bundle, write_bundle
from probes.bundle.files import read_files, write_files
from probes.bundle.layout import MAX_BYTES
from probes.bundle.read import bundle_of
from probes.bundle.sums import make_sums
from probes.errors import BundleFormatError


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", make_manifest(), make_tensors(), card=make_card())


def refuse(bundle: Bundle, message: str) -> None:
    with pytest.raises(BundleFormatError, match=message):
        read_bundle(bundle.path)


@pytest.mark.parametrize("name", ["../bundle.json", "/etc/passwd", "sub/bundle.json", "bundle.json\x00", "..", ""])
def test_a_name_that_leads_elsewhere_is_only_ever_compared(bundle: Bundle, name: str) -> None:
    sums = (bundle.path / "SHA256SUMS").read_text()
    (bundle.path / "SHA256SUMS").write_text(sums + f"{'0' * 64}  {name}\n")
    refuse(bundle, "SHA256SUMS lists .*wanted one line each for bundle.json, card.json, tensors.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sums: sums + sums.splitlines(keepends=True)[0], "lists .* twice"),
        (lambda sums: sums + f"{'0' * 64}  bundle.json\n", "lists .* twice"),
        (lambda sums: sums.upper(), "which is no line of sha256sum"),
        (lambda sums: sums.replace("\n", "\r\n"), "which is no line of sha256sum"),
        (lambda sums: sums.replace("\n", "\n\n", 1), "which is no line of sha256sum"),
        (lambda sums: sums.rstrip("\n"), "an unfinished line"),
        (lambda sums: "", "lists nothing"),
        (lambda sums: "".join(sums.splitlines(keepends=True)[1:]), "lists card.json, tensors.safetensors; wanted"),
    ],
    ids=["doubled", "another sum", "upper case", "CRLF", "empty line", "no end", "empty", "one missing"],
)
def test_malformed_sums_are_refused(bundle: Bundle, change: Callable[[str], str], message: str) -> None:
    path = bundle.path / "SHA256SUMS"
    path.write_bytes(change(path.read_text()).encode())
    refuse(bundle, message)


@pytest.mark.parametrize("name", ["bundle.json", "card.json", "tensors.safetensors", "SHA256SUMS"])
def test_a_link_that_leads_out_of_the_bundle_is_refused(bundle: Bundle, name: str) -> None:
    outside = bundle.path.parent / name
    (bundle.path / name).rename(outside)
    (bundle.path / name).symlink_to(outside)
    refuse(bundle, f"{name} is a link that leads out of the bundle; put the file itself there")


def test_links_within_the_bundle_are_followed_as_kubernetes_mounts_a_volume(bundle: Bundle) -> None:
    (bundle.path / "..2026").mkdir()
    (bundle.path / "..data").symlink_to("..2026")
    for name in [p.name for p in bundle.path.iterdir() if p.is_file()]:
        (bundle.path / name).rename(bundle.path / "..2026" / name)
        (bundle.path / name).symlink_to(Path("..data") / name)
    assert read_bundle(bundle.path).digest == bundle.digest


def test_links_in_a_circle_are_refused(bundle: Bundle) -> None:
    (bundle.path / "bundle.json").unlink()
    (bundle.path / "bundle.json").symlink_to("bundle.json")
    refuse(bundle, "link")


@pytest.mark.parametrize(
    ("make", "message"), [(os.mkfifo, r"card\.json is no regular file"), (Path.mkdir, "Is a directory")]
)
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(
    bundle: Bundle, make: Callable[[Path], object], message: str
) -> None:
    (bundle.path / "card.json").unlink()
    make(bundle.path / "card.json")
    refuse(bundle, message)


@pytest.mark.parametrize("name", sorted(MAX_BYTES))
def test_a_file_that_is_too_large_is_refused_before_it_is_read(bundle: Bundle, name: str) -> None:
    with (bundle.path / name).open("wb") as file:
        file.truncate(2**40)  # takes no space on the disk, and would take a TiB of memory
    refuse(bundle, f"{name} has 1099511627776 bytes; at most {MAX_BYTES[name]} are read")


def test_nothing_is_written_that_would_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(BundleFormatError, match=r"bundle\.sig has 4097 bytes; at most 4096 are read"):
        write_files(tmp_path / "b", {"bundle.sig": bytes(4097)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bundle.json", "card.json"])
def test_json_that_nests_deeper_than_the_stack_is_refused(bundle: Bundle, name: str) -> None:
    depth = 100_000
    (bundle.path / name).write_text('{"data":' * depth + "1" + "}" * depth)
    reseal(bundle.path)
    refuse(bundle, f"{name} is not JSON: recursion limit")


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_truncated_tensors_are_refused(bundle: Bundle, kept: int) -> None:
    path = bundle.path / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    reseal(bundle.path)
    refuse(bundle, "is not a readable safetensors file")


@pytest.mark.parametrize(
    "header",
    [
        {"probe.deception.weights": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
        {"probe.deception.weights": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 4]}},
        {"probe.deception.weights": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 4]}},
        {"../probe": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    ],
    ids=["unknown type", "overflowing shape", "negative offset", "name that leads elsewhere"],
)
def test_tensors_with_a_lying_header_are_refused(bundle: Bundle, header: dict[str, object]) -> None:
    text = json.dumps(header).encode()
    (bundle.path / "tensors.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    reseal(bundle.path)
    refuse(bundle, "tensors")


def test_files_that_are_swapped_after_they_were_read_change_nothing(bundle: Bundle, tmp_path: Path) -> None:
    files = read_files(bundle.path)
    other = write_bundle(tmp_path / "other", make_manifest(), make_tensors(seed=1))
    for entry in bundle.path.iterdir():
        entry.unlink()
    for entry in other.path.iterdir():
        entry.rename(bundle.path / entry.name)
    found = bundle_of(bundle.path, files)
    assert found.digest == bundle.digest
    np.testing.assert_array_equal(found.tensors["probe.deception.weights"], make_tensors()["probe.deception.weights"])


@settings(max_examples=100, deadline=None)
@given(data=st.data(), name=st.sampled_from(["bundle.json", "card.json", "tensors.safetensors"]))
def test_whatever_is_changed_and_sealed_again_the_answer_is_a_bundle_or_a_refusal(
    sound: dict[str, bytes], data: st.DataObject, name: str
) -> None:
    content = bytearray(sound[name])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    files = sound | {name: bytes(content)}
    try:
        bundle_of(Path("b"), files | {"SHA256SUMS": make_sums(files)})
    except BundleFormatError as error:
        assert str(error).startswith("b")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("sound") / "b"
    write_bundle(path, make_manifest(), make_tensors(), card=make_card())
    return read_files(path)
