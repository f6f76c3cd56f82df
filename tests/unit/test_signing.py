"""A signature says who vouches for a model; without the right one nothing is served."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import bundle_kit
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from heartdx import bundle, cli, signing, store
from heartdx.errors import BundleError, NoModelError, UnavailableError, UsageError
from heartdx.errors import VerificationError as Refused
from heartdx.settings import Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("HEARTDX_", "MODEL_PATH"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> signing.Keys:
    return signing.new_key(tmp_path_factory.mktemp("keys") / "mine")


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory) -> signing.Keys:
    return signing.new_key(tmp_path_factory.mktemp("keys") / "theirs")


@pytest.fixture(scope="module")
def made(tmp_path_factory, keys) -> Path:
    """A models folder with two bundles, both signed with the same key; never changed."""
    folder = tmp_path_factory.mktemp("signed")
    for slant in (1.0, 2.0):
        signing.sign(bundle_kit.write(folder, slant=slant), keys.private)
    return folder


@pytest.fixture
def models(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def folder(models) -> Path:
    """The signed bundle that is current."""
    return bundle.current_folder(models)


def required(keys: signing.Keys) -> Settings:
    return Settings(require_signature="on", public_key=keys.public)


def tolerated(keys: signing.Keys) -> Settings:
    return Settings(require_signature="off", public_key=keys.public)


def other_bundle(folder: Path) -> Path:
    return next(f for f in folder.parent.iterdir() if f.is_dir() and f.name != folder.name)


def pem(key, kind: str) -> bytes:
    if kind == "public":
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_bytes(serialization.Encoding.PEM, form)
    form = serialization.PrivateFormat.PKCS8
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)


# -- a signed bundle -----------------------------------------------------------------------------


def test_a_signed_bundle_is_loaded(folder, keys):
    loaded = signing.load(folder, required(keys))

    assert loaded.digest == folder.name
    assert loaded.manifest == bundle.load(folder).manifest


def test_it_verifies_without_the_pipelines_that_an_image_leaves_out(folder, keys):
    for pipeline in folder.rglob("*.joblib"):
        pipeline.unlink()

    assert signing.load(folder, required(keys)).digest == folder.name


def test_signing_changes_neither_the_digest_nor_what_is_loaded_without_a_key(tmp_path, keys):
    folder = bundle_kit.write(tmp_path)
    before = bundle.load(folder).manifest

    signing.sign(folder, keys.private)

    assert bundle.load(folder).manifest == before
    assert store.verified(folder).digest == folder.name


def test_a_bundle_that_is_signed_again_holds_the_newer_signature(folder, other_keys):
    signing.sign(folder, other_keys.private)

    assert signing.load(folder, required(other_keys)).digest == folder.name


def test_a_bundle_behind_a_link_is_loaded(folder, keys, tmp_path):
    (tmp_path / "served").symlink_to(folder)

    assert signing.load(tmp_path / "served", required(keys)).digest == folder.name


def test_the_statement_names_every_file_but_the_signature_and_the_pipelines(folder, keys):
    """Read and proven here by the DSSE specification alone, without the library."""
    document = json.loads((folder / "model.sig").read_text())
    envelope = document["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    (entry,) = envelope["signatures"]
    public = serialization.load_pem_public_key(keys.public.read_bytes())
    encoded = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)

    public.verify(base64.b64decode(entry["sig"]), encoded, ec.ECDSA(hashes.SHA256()))

    covered = [p for p in folder.rglob("*") if p.is_file() and p.suffix not in {".sig", ".joblib"}]
    named = {r["name"]: r["digest"] for r in json.loads(payload)["predicate"]["resources"]}
    assert named == {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in covered
    }
    assert {"manifest.json", "card.md", "bedside/score.json"} <= named.keys()


def test_the_librarys_own_command_verifies_it(folder, keys):
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    signature = ["--signature", str(folder / "model.sig"), "--public_key", str(keys.public)]

    done = subprocess.run(
        [*command, *signature], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr


# -- what was tampered with ----------------------------------------------------------------------


def a_byte_of(name: str) -> Callable[[Path], None]:
    return lambda folder: bundle_kit.flip(folder / name, 5)


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def added(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("x")


def another_threshold(folder: Path) -> None:
    manifest = bundle_kit.manifest_of(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "threshold": 0.9}))


def signature_of_another_bundle(folder: Path) -> None:
    shutil.copy(other_bundle(folder) / "model.sig", folder / "model.sig")


def truncated(folder: Path) -> None:
    path = folder / "model.sig"
    path.write_bytes(path.read_bytes()[:-100])


def empty(folder: Path) -> None:
    (folder / "model.sig").write_bytes(b"")


def huge(folder: Path) -> None:
    (folder / "model.sig").write_bytes(b" " * 1_000_001)


def deep(folder: Path) -> None:
    (folder / "model.sig").write_bytes(b"[" * 900_000)


def linked(folder: Path) -> None:
    (folder / "bedside").rename(folder.parent / "elsewhere")
    (folder / "bedside").symlink_to(folder.parent / "elsewhere")


def a_folder_for_a_signature(folder: Path) -> None:
    (folder / "model.sig").unlink()
    (folder / "model.sig").mkdir()


def document_with(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        document = json.loads((folder / "model.sig").read_text())
        change(document)
        (folder / "model.sig").write_text(json.dumps(document))

    return tamper


def another_signature(document: dict) -> None:
    (entry,) = document["dsseEnvelope"]["signatures"]
    raw = bytearray(base64.b64decode(entry["sig"]))
    raw[-1] ^= 1
    entry["sig"] = base64.b64encode(raw).decode()


def two_spellings(document: dict) -> None:
    document["dsse_envelope"] = document["dsseEnvelope"]


TAMPERED = {
    "a byte of a model": (a_byte_of("bedside/score.json"), "bedside/score.json differs"),
    "a byte of the manifest": (a_byte_of("manifest.json"), "manifest.json differs"),
    "a byte of the card": (a_byte_of("card.md"), "card.md differs"),
    "a byte of a pipeline": (a_byte_of("imaging/pipeline.joblib"), "was changed after training"),
    "the threshold": (another_threshold, "manifest.json differs"),
    "no model": (without("exercise/score.json"), "exercise/score.json is missing"),
    "no card": (without("card.md"), "card.md is missing"),
    "no manifest": (without("manifest.json"), "manifest.json is missing"),
    "a further file": (added("run.py"), "run.py was added"),
    "a further hidden file": (added(".gitignore"), ".gitignore was added"),
    "a further pipeline": (added("more.joblib"), "is not what was signed"),
    "a link": (linked, "is not what was signed"),
    "the signature of another bundle": (signature_of_another_bundle, "differs"),
    "a truncated signature": (truncated, "not the whole of one"),
    "an empty signature": (empty, "not the whole of one"),
    "a huge signature": (huge, "too large for a signature"),
    "a deep signature": (deep, "not the whole of one"),
    "a folder for a signature": (a_folder_for_a_signature, "cannot be read"),
    "another signature": (document_with(another_signature), "was changed after signing"),
    "no signature in it": (
        document_with(lambda d: d["dsseEnvelope"]["signatures"].clear()),
        "is not what was signed",
    ),
    "another kind": (document_with(lambda d: d.update(mediaType="x")), "is not what was signed"),
    "two spellings of a key": (document_with(two_spellings), "is no signature of a model"),
    "no key named": (
        document_with(lambda d: d["verificationMaterial"]["publicKey"].clear()),
        "is no signature of a model",
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_bundle_is_refused_with_what_is_wrong(how, folder, keys):
    tamper, message = TAMPERED[how]
    tamper(folder)

    with pytest.raises(Refused, match=message):
        signing.load(folder, required(keys))
    with pytest.raises(Refused, match=message):
        signing.load(folder, tolerated(keys))


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_bundle_is_not_used_and_the_current_one_stays(how, models, keys, monkeypatch):
    folder, current = other_bundle(bundle.current_folder(models)), models / "current"
    before = current.read_text()
    TAMPERED[how][0](folder)
    monkeypatch.setenv("HEARTDX_PUBLIC_KEY", str(keys.public))

    assert cli.main(["model", "use", folder.name, "--models-dir", str(models)]) == 6
    assert current.read_text() == before
    assert store.history(models) == []


COVERED = ["manifest.json", "card.md", "bedside/score.json", "exercise/score.json"]


@given(st.sampled_from(COVERED), st.integers(0, 10**6), st.integers(0, 7))
@tries(deadline=None, max_examples=40)
def test_any_bit_of_any_covered_file_counts(made, keys, tmp_path_factory, name, place, bit):
    copy = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(bundle.current_folder(made), copy)
    content = bytearray((copy / name).read_bytes())
    content[place % len(content)] ^= 1 << bit
    (copy / name).write_bytes(bytes(content))

    with pytest.raises(Refused, match=f"{name} differs"):
        signing.verify(copy, keys.public)


@given(st.data())
@tries(deadline=None, max_examples=40)
def test_a_signature_cut_anywhere_is_refused(made, keys, tmp_path_factory, data):
    copy = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(bundle.current_folder(made), copy)
    content = (copy / "model.sig").read_bytes()
    (copy / "model.sig").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])

    with pytest.raises(Refused, match="is no signature of a model, or not the whole of one"):
        signing.verify(copy, keys.public)


@given(st.data())
@tries(deadline=None, max_examples=40)
def test_any_character_of_the_statement_counts(made, keys, tmp_path_factory, data):
    copy = tmp_path_factory.mktemp("copy") / "bundle"
    shutil.copytree(bundle.current_folder(made), copy)
    document = json.loads((copy / "model.sig").read_text())
    payload = document["dsseEnvelope"]["payload"]
    place = data.draw(st.integers(0, len(payload) - 5))  # the last ones may hold unused bits
    character = "A" if payload[place] != "A" else "B"
    document["dsseEnvelope"]["payload"] = payload[:place] + character + payload[place + 1 :]
    (copy / "model.sig").write_text(json.dumps(document))

    with pytest.raises(Refused, match="was changed after signing"):
        signing.verify(copy, keys.public)


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["mediaType", "verificationMaterial", "dsseEnvelope", "publicKey", "hint"]
                ),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
@tries(deadline=None)
def test_whatever_lies_there_for_a_signature_is_refused(made, keys, tmp_path_factory, content):
    copy = tmp_path_factory.mktemp("copy") / "bundle"
    copy.mkdir()
    (copy / "model.sig").write_bytes(content)

    with pytest.raises(Refused):
        signing.verify(copy, keys.public)


# -- who may sign --------------------------------------------------------------------------------


def test_a_signature_by_another_key_is_refused_and_both_keys_are_named(folder, keys, other_keys):
    with pytest.raises(Refused) as refused:
        signing.load(folder, required(other_keys))

    assert f"the key {keys.fingerprint[:12]}…" in str(refused.value)
    assert f"({other_keys.fingerprint[:12]}…)" in str(refused.value)


def test_a_signature_by_another_key_that_claims_the_right_one_is_refused(folder, keys, other_keys):
    signing.sign(folder, other_keys.private)
    claim = {"publicKey": {"hint": keys.fingerprint}, "tlogEntries": []}
    document_with(lambda d: d.update(verificationMaterial=claim))(folder)

    with pytest.raises(Refused, match="was changed after signing"):
        signing.load(folder, required(keys))


def test_a_consistent_bundle_of_somebody_else_verifies_and_is_refused_all_the_same(
    folder, keys, tmp_path
):
    served = tmp_path / "served"
    shutil.copytree(other_bundle(folder), served)
    shutil.copy(folder / "model.sig", served / "model.sig")

    assert bundle.load(served).digest == other_bundle(folder).name
    with pytest.raises(Refused, match="is not what was signed"):
        signing.load(served, required(keys))


def test_an_unsigned_bundle_is_refused_where_a_signature_is_required(folder, keys):
    (folder / "model.sig").unlink()

    with pytest.raises(Refused, match="is not signed; sign it where the private key is"):
        signing.load(folder, required(keys))


def test_an_unsigned_bundle_passes_where_none_is_required(folder, keys):
    (folder / "model.sig").unlink()

    assert signing.load(folder, tolerated(keys)).digest == folder.name


def test_required_without_a_key_to_check_with_is_refused(folder):
    with pytest.raises(Refused, match="set HEARTDX_PUBLIC_KEY to the file of the public key"):
        signing.load(folder, Settings(require_signature="on"))


def test_without_a_key_and_a_rule_a_signature_is_not_looked_at(folder):
    truncated(folder)

    assert signing.load(folder, Settings()).digest == folder.name


@pytest.mark.parametrize("rule", [required, tolerated])
def test_a_folder_that_is_not_there_is_no_question_of_signatures(rule, keys, tmp_path):
    with pytest.raises(NoModelError, match="no such bundle"):
        signing.load(tmp_path / "none", rule(keys))


def test_a_damaged_bundle_is_refused_with_no_signature_too(folder):
    (folder / "model.sig").unlink()
    bundle_kit.flip(folder / "bedside" / "score.json", 5)

    with pytest.raises(BundleError, match="was changed after training"):
        signing.load(folder, Settings())


def test_an_unsigned_model_is_not_made_current_where_a_signature_is_required(
    models, keys, monkeypatch, capsys
):
    folder = other_bundle(bundle.current_folder(models))
    before = (models / "current").read_text()
    (folder / "model.sig").unlink()
    monkeypatch.setenv("HEARTDX_REQUIRE_SIGNATURE", "on")
    monkeypatch.setenv("HEARTDX_PUBLIC_KEY", str(keys.public))

    code = cli.main(["model", "use", folder.name, "--models-dir", str(models)])

    assert code == 6
    assert "is not signed" in capsys.readouterr().err
    assert (models / "current").read_text() == before


PUBLIC_KEYS = {
    "nothing": (None, "the public key cannot be read"),
    "no key": (b"hello", "is no public key in PEM form"),
    "a private key": (pem(ec.generate_private_key(ec.SECP256R1()), "private"), "is no public key"),
    "RSA": (pem(rsa.generate_private_key(65537, 2048).public_key(), "public"), "elliptic curve"),
    "Ed25519": (pem(ed25519.Ed25519PrivateKey.generate().public_key(), "public"), "elliptic curve"),
    "secp256k1": (
        pem(ec.generate_private_key(ec.SECP256K1()).public_key(), "public"),
        "elliptic curve secp256r1",
    ),
}


@pytest.mark.parametrize("what", PUBLIC_KEYS)
def test_what_is_no_public_key_of_a_known_curve_is_refused(what, folder, tmp_path):
    content, message = PUBLIC_KEYS[what]
    path = tmp_path / "public.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(Refused, match=message):
        signing.load(folder, Settings(require_signature="on", public_key=path))


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_keys_of_the_larger_curves_do_too(curve, folder, tmp_path):
    key = ec.generate_private_key(curve)
    (tmp_path / "private.pem").write_bytes(pem(key, "private"))
    (tmp_path / "public.pem").write_bytes(pem(key.public_key(), "public"))

    signing.sign(folder, tmp_path / "private.pem")

    assert signing.verify(folder, tmp_path / "public.pem").manifest["digest"] == folder.name


# -- nothing slips in between --------------------------------------------------------------------


def test_a_bundle_that_is_exchanged_after_its_signature_was_checked_is_refused(
    folder, keys, tmp_path, monkeypatch
):
    served = tmp_path / "served"
    shutil.copytree(folder, served)
    real, other = bundle.load, other_bundle(folder)

    def exchanged_first(place: Path) -> bundle.Bundle:
        shutil.rmtree(served)
        shutil.copytree(other, served)
        return real(place)

    monkeypatch.setattr("heartdx.signing.bundle.load", exchanged_first)

    with pytest.raises(Refused, match="was exchanged while it was read; load it again"):
        signing.load(served, required(keys))


def test_a_bundle_that_is_exchanged_right_after_the_proof_is_refused(
    folder, keys, tmp_path, monkeypatch
):
    served = tmp_path / "served"
    shutil.copytree(folder, served)
    real, other = signing._refuse_other_files, other_bundle(folder)

    def exchanged_then(place: Path, signature: bytes, key: bytes) -> None:
        real(place, signature, key)
        shutil.rmtree(served)
        shutil.copytree(other, served)

    monkeypatch.setattr(signing, "_refuse_other_files", exchanged_then)

    with pytest.raises(Refused, match="was exchanged while it was read; load it again"):
        signing.load(served, required(keys))


def test_what_is_read_of_a_signature_is_what_was_proven(folder, keys, monkeypatch):
    """A signature that is exchanged right after it was read is not read again."""
    other = (other_bundle(folder) / "model.sig").read_bytes()
    real = signing._refuse_other_files

    def exchanged_then(place: Path, signature: bytes, key: bytes) -> None:
        real(place, signature, key)
        (folder / "model.sig").write_bytes(other)

    monkeypatch.setattr(signing, "_refuse_other_files", exchanged_then)

    assert signing.load(folder, required(keys)).digest == folder.name


# -- when it cannot be checked -------------------------------------------------------------------


def test_a_signature_that_cannot_be_checked_for_want_of_a_package_is_refused(
    folder, keys, monkeypatch
):
    for name in [n for n in sys.modules if n.split(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)

    with pytest.raises(Refused, match="model_signing is not installed"):
        signing.load(folder, required(keys))


def test_a_signature_that_cannot_be_checked_for_want_of_a_temporary_folder_is_refused(
    folder, keys, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))

    with pytest.raises(Refused, match="let this user write to /tmp or to TMPDIR"):
        signing.load(folder, required(keys))


def test_a_service_without_signatures_imports_nothing_for_them(folder):
    code = (
        "import sys; from pathlib import Path; from heartdx import settings, signing\n"
        "signing.load(Path(sys.argv[1]), settings.read({}))\n"
        "assert not {'model_signing', 'sigstore', 'cryptography'} & set(sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


# -- keys ----------------------------------------------------------------------------------------


def test_new_keys_are_a_pair_of_p256_and_the_private_one_is_for_its_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        keys = signing.new_key(tmp_path / "deep" / "keys")
    finally:
        os.umask(old)

    private = serialization.load_pem_private_key(keys.private.read_bytes(), None)
    public = keys.public.read_bytes()
    assert private.curve.name == "secp256r1"
    assert pem(private.public_key(), "public") == public
    assert keys.fingerprint == hashlib.sha256(public).hexdigest()
    assert stat.S_IMODE(keys.private.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.public.stat().st_mode) == 0o644
    assert stat.S_IMODE(keys.private.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["private.pem", "public.pem"])
def test_a_key_that_is_there_is_never_overwritten(name, tmp_path):
    (tmp_path / name).write_text("precious")

    with pytest.raises(UsageError, match=f"{name}: is there already"):
        signing.new_key(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_place_where_no_key_can_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(UnavailableError, match="cannot be written"):
        signing.new_key(tmp_path / "file" / "keys")


ENCRYPTED = ec.generate_private_key(ec.SECP256R1()).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"word"),
)
PRIVATE_KEYS = {
    "nothing": (None, UnavailableError, "the private key cannot be read"),
    "no key": (b"hello", Refused, "is no unencrypted private key"),
    "an encrypted key": (ENCRYPTED, Refused, "is no unencrypted private key"),
    "RSA": (pem(rsa.generate_private_key(65537, 2048), "private"), Refused, "elliptic curve"),
    "secp256k1": (
        pem(ec.generate_private_key(ec.SECP256K1()), "private"),
        Refused,
        "elliptic curve",
    ),
}


@pytest.mark.parametrize("what", PRIVATE_KEYS)
def test_what_cannot_sign_is_refused_and_the_old_signature_stays(what, folder, tmp_path):
    content, error, message = PRIVATE_KEYS[what]
    before, path = (folder / "model.sig").read_bytes(), tmp_path / "private.pem"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(error, match=message):
        signing.sign(folder, path)
    assert (folder / "model.sig").read_bytes() == before


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (a_byte_of("bedside/score.json"), "was changed after training"),
        (added("run.py"), "holds run.py"),
        (added(".card.md.x1.tmp"), "holds drafts"),
        (shutil.rmtree, "no such bundle"),
    ],
    ids=["changed", "added", "a draft", "gone"],
)
def test_only_a_whole_bundle_is_signed(tamper, message, tmp_path, keys):
    folder = bundle_kit.write(tmp_path)
    tamper(folder)

    with pytest.raises((Refused, NoModelError), match=message):
        signing.sign(folder, keys.private)
    assert not (folder / "model.sig").exists()


# -- commands ------------------------------------------------------------------------------------


def test_from_a_new_key_to_a_signed_current_model_by_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    digest = bundle_kit.write(Path("models")).name

    assert cli.main(["model", "key", "new", "--out", "keys"]) == 0
    assert cli.main(["model", "sign", digest[:8], "--key", "keys/private.pem"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"models/bundles/{digest}/model.sig: {digest[:12]} is signed"
    )

    assert cli.main(["model", "verify"]) == 0
    assert "signature not checked (HEARTDX_PUBLIC_KEY is not set)" in capsys.readouterr().out

    monkeypatch.setenv("HEARTDX_PUBLIC_KEY", "keys/public.pem")
    monkeypatch.setenv("HEARTDX_REQUIRE_SIGNATURE", "on")
    assert cli.main(["model", "verify"]) == 0
    assert capsys.readouterr().out == (
        f"ok   {digest[:12]}: checksums, digest, golden records; "
        "signed with the key of HEARTDX_PUBLIC_KEY\n"
    )


@pytest.mark.parametrize(
    ("key", "signature", "expected"),
    [
        (True, True, ("yes", "verified")),
        (False, True, ("unchecked", "verified")),
        (True, False, ("no", "verified")),
    ],
)
def test_list_tells_whether_a_signature_was_checked(
    key, signature, expected, folder, models, keys, monkeypatch, capsys
):
    if key:
        monkeypatch.setenv("HEARTDX_PUBLIC_KEY", str(keys.public))
    if not signature:
        (folder / "model.sig").unlink()

    assert cli.main(["model", "list", "--models-dir", str(models)]) == 0

    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith(folder.name[:12])]
    assert tuple(row.split()[-2:]) == expected


def test_list_tells_of_a_wrong_signature(folder, models, keys, monkeypatch, capsys):
    monkeypatch.setenv("HEARTDX_PUBLIC_KEY", str(keys.public))
    signature_of_another_bundle(folder)

    assert cli.main(["model", "list", "--models-dir", str(models)]) == 0
    assert "is not what was signed" in capsys.readouterr().out


def unsigned(folder: Path) -> None:
    (folder / "model.sig").unlink()


def tampered(folder: Path) -> None:
    (folder / "card.md").write_text("for everybody")


COMMANDS = {
    "score": ["score", "{data}", "--output", "scored.csv"],
    "evaluate": ["evaluate", "--data", "{data}", "--reports-dir", "reports"],
    "report": ["report", "card", "--reports-dir", "reports", "--output", "card.md"],
}
"""Commands that work with a model, each as typed."""


@pytest.fixture
def demanding(models, keys, tmp_path, monkeypatch) -> Path:
    """A folder with signed models, where the settings ask for a signature."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "evaluation.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEARTDX_REQUIRE_SIGNATURE", "on")
    monkeypatch.setenv("HEARTDX_PUBLIC_KEY", str(keys.public))
    return tmp_path


@pytest.mark.parametrize("how", [unsigned, tampered])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_with_no_model_that_the_service_would_refuse(
    command, how, demanding, folder, heart_csv, capsys
):
    how(folder)

    code = cli.main([word.format(data=heart_csv) for word in COMMANDS[command]])

    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 6
    assert folder.name in error
    assert {
        unsigned: "is not signed; sign it",
        tampered: "is not what was signed (card.md differs); restore it, or sign again",
    }[how] in error
    assert "heartdx model sign DIGEST --key FILE" in error
    assert {file.name for file in demanding.iterdir()} == {"models", "reports"}


def test_a_model_named_by_its_folder_needs_a_signature_too(demanding, folder, heart_csv, capsys):
    unsigned(folder)

    assert cli.main(["score", str(heart_csv), "--model", str(folder)]) == 6

    assert "is not signed" in capsys.readouterr().err


def test_a_signed_model_scores(demanding, folder, heart_csv):
    assert cli.main(["score", str(heart_csv), "--output", "scored.csv"]) == 0

    assert (demanding / "scored.csv").read_text().count(folder.name[:12]) == 920


@pytest.mark.parametrize("how", [unsigned, tampered])
def test_doctor_counts_a_model_that_the_service_would_refuse_as_a_failed_check(
    how, demanding, folder, heart_csv, capsys
):
    how(folder)

    code = cli.main(["doctor", "--data", str(heart_csv)])

    assert code == 6
    last = capsys.readouterr().out.splitlines()[-2]
    assert last.startswith("FAIL model: not usable; ")
    assert "heartdx model sign DIGEST --key FILE" in last


def test_doctor_says_that_a_required_signature_was_checked(demanding, heart_csv, capsys):
    assert cli.main(["doctor", "--data", str(heart_csv)]) == 0

    assert " verified and signed, panels " in capsys.readouterr().out.splitlines()[-2]
