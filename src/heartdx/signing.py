"""Signatures of bundles: who vouches for a model, checked before it serves.

A checksum tells that a bundle is whole; a signature tells that the holder of a key meant it. They
are OpenSSF model signatures in key mode (``model_signing``): an in-toto statement of every file's
SHA-256 in a Sigstore bundle, signed by an elliptic-curve key. Nothing is asked of a network.

The signature lies in the bundle as ``model.sig``. It covers every file but itself and the
``.joblib`` pipelines, which an image leaves out: those it names as ignored, so that it verifies
with and without them, and the manifest, which it covers, holds their checksums. A file that was
not there at signing is refused.

References
----------
OpenSSF Model Signing specification, https://github.com/sigstore/model-transparency.
DSSE envelope, https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from heartdx import atomic, bundle, store
from heartdx.bundle import Bundle
from heartdx.errors import UnavailableError, UsageError, VerificationError
from heartdx.settings import Settings, variable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

PRIVATE_KEY = "private.pem"
PUBLIC_KEY = "public.pem"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""What the library signs with; new keys are of the first (P-256)."""

LARGEST_SIGNATURE = 1_000_000
"""Bytes; a signature of a bundle has about 4 kB."""

PIPELINES = ".joblib"
"""Files for people, which an image leaves out and a signature does not cover."""

HOW_TO_SIGN = "heartdx model sign DIGEST --key FILE"

_EXCHANGED = "was exchanged while it was read; load it again"
_UNREADABLE = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Keys:
    """A new pair of keys.

    Parameters
    ----------
    private : file that signs; mode 0600, never on the machine that serves.
    public : file that verifies.
    fingerprint : SHA-256 of the public key's PEM, as signatures name it.
    """

    private: Path
    public: Path
    fingerprint: str


@dataclass(frozen=True)
class Signed:
    """What a verified signature vouches for.

    Parameters
    ----------
    manifest : the bundle's manifest, read from the very bytes that were signed.
    fingerprint : of the key that signed.
    """

    manifest: Mapping[str, Any]
    fingerprint: str


def load(folder: Path, settings: Settings) -> Bundle:
    """A bundle that verifies and whose signature is as the settings ask: the service's door.

    With ``require_signature`` on, a bundle that is unsigned, or signed by another key, and a
    missing public key are refused. With it off, a signature that lies in the bundle still has to
    fit when there is a public key; an unsigned bundle passes.

    No bytes slip in between checking and loading: the statement is taken from the bytes of the
    signature that were verified; the manifest is parsed from bytes whose SHA-256 that statement
    holds, and must equal the manifest of the loaded bundle; and ``bundle.load`` evaluates only
    bytes whose SHA-256 that manifest holds. A bundle exchanged meanwhile is refused.

    Raises
    ------
    NoModelError
        The folder is not there.
    VerificationError
        The signature is missing, broken, by another key or of other files.
    BundleError
        The bundle itself does not verify.
    """
    signed = _signed_as_asked(folder, settings)
    made = bundle.load(folder)
    if signed is not None and signed.manifest != made.manifest:
        raise VerificationError(f"{folder}: {_EXCHANGED}")
    return made


def _signed_as_asked(folder: Path, settings: Settings) -> Signed | None:
    required = settings.require_signature == "on"
    if settings.public_key is None:
        if required:
            raise VerificationError(
                f"{variable('require_signature')}=on asks for signed models, but there is no key "
                f"to check them with; set {variable('public_key')} to the file of the public key"
            )
        return None
    present = folder.is_dir() and os.path.lexists(folder / store.SIGNATURE)
    if not present and not (required and folder.is_dir()):
        return None  # a folder that is not there is for bundle.load to tell
    return verify(folder, settings.public_key)


def verify(folder: Path, public_key: Path) -> Signed:
    """What the signature of a bundle vouches for, once it is proven.

    Raises
    ------
    VerificationError
        There is no signature, it cannot be read, it is by another key, it is not whole, or the
        files are not those that were signed.
    """
    key, fingerprint = _public_key(public_key)
    signature = _signature(folder)
    _refuse_other_key(folder, signature, fingerprint, public_key)
    _refuse_other_files(folder, signature, key)
    return Signed(_signed_manifest(folder, signature), fingerprint)


def sign(folder: Path, private_key: Path) -> Path:
    """Sign a bundle, after verifying it; gives the signature's file.

    Raises
    ------
    VerificationError
        The bundle does not verify, or the key cannot be used.
    UnavailableError
        The signature cannot be written.
    """
    made = store.verified(folder)
    _check_private_key(private_key)
    known = store.known_files(made) - {store.SIGNATURE}
    left_out = {name for name in known if name.endswith(PIPELINES)}
    library = _library()
    config = library.signing.Config().use_elliptic_key_signer(private_key=private_key)
    config.set_hashing_config(_files_but(sorted(left_out), library))
    with _private_folder() as private:
        try:
            config.sign(folder.resolve(), private / store.SIGNATURE)
        except (OSError, ValueError) as cause:
            raise VerificationError(f"{folder}: cannot be signed; {cause}") from cause
        signature = (private / store.SIGNATURE).read_bytes()
    covered = _statement(folder, signature).keys()
    if (covered ^ (known - left_out)) - {store.CARD}:
        raise VerificationError(
            f"{folder}: holds drafts or was changed while it was signed; remove what does not "
            "belong there (`ls -A`) and sign again"
        )
    atomic.write_bytes(folder / store.SIGNATURE, signature)
    return folder / store.SIGNATURE


def new_key(folder: Path) -> Keys:
    """Make a pair of P-256 keys in a folder; an old pair is never overwritten.

    Raises
    ------
    UsageError
        There is a key already.
    UnavailableError
        The folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = _pem(key.public_key())
    private_path, public_path = folder / PRIVATE_KEY, folder / PUBLIC_KEY
    for path in (private_path, public_path):
        if os.path.lexists(path):
            raise UsageError(f"{path}: is there already; choose another folder, or move it away")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(private_path, secret, mode=0o600)
        _create(public_path, public, mode=0o644)
    except OSError as cause:
        raise UnavailableError(f"{folder}: cannot be written ({cause.strerror})") from cause
    return Keys(private_path, public_path, hashlib.sha256(public).hexdigest())


# -- keys ------------------------------------------------------------------------------------


def _create(path: Path, content: bytes, *, mode: int) -> None:
    """A new file that has its mode from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)


def _public_key(path: Path) -> tuple[bytes, str]:
    """PEM of a public key, and its fingerprint."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as cause:
        raise VerificationError(
            f"{path}: the public key cannot be read ({cause.strerror})"
        ) from cause
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise VerificationError(
            f"{path}: is no public key in PEM form; give the {PUBLIC_KEY} of "
            "`heartdx model key new`"
        ) from cause
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise VerificationError(f"{path}: is no key of an elliptic curve {', '.join(CURVES)}")
    pem = _pem(key)
    return pem, hashlib.sha256(pem).hexdigest()


def _pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _check_private_key(path: Path) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as cause:
        raise UnavailableError(
            f"{path}: the private key cannot be read ({cause.strerror})"
        ) from cause
    except (TypeError, ValueError, UnsupportedAlgorithm) as cause:
        raise VerificationError(
            f"{path}: is no unencrypted private key in PEM form; give the {PRIVATE_KEY} of "
            "`heartdx model key new`"
        ) from cause
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise VerificationError(f"{path}: is no key of an elliptic curve {', '.join(CURVES)}")


# -- the signature ---------------------------------------------------------------------------


def _signature(folder: Path) -> bytes:
    path = folder / store.SIGNATURE
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_SIGNATURE + 1)
    except FileNotFoundError as cause:
        raise VerificationError(
            f"{folder}: is not signed; sign it where the private key is: {HOW_TO_SIGN}"
        ) from cause
    except OSError as cause:
        raise VerificationError(f"{path}: cannot be read ({cause.strerror})") from cause
    if len(content) > LARGEST_SIGNATURE:
        raise VerificationError(f"{path}: is too large for a signature; sign again: {HOW_TO_SIGN}")
    return content


def _refuse_other_key(folder: Path, signature: bytes, fingerprint: str, key: Path) -> None:
    """Names the keys; a claim not proven yet, so it can only refuse."""
    claimed = _part(folder, signature, "verificationMaterial")["publicKey"]["hint"]
    if claimed != fingerprint:
        raise VerificationError(
            f"{folder / store.SIGNATURE}: was made with the key {str(claimed)[:12]}…, not with "
            f"{key} ({fingerprint[:12]}…); sign again, or give the key of whoever signed"
        )


def _refuse_other_files(folder: Path, signature: bytes, key: bytes) -> None:
    """The library's verdict, on copies of the signature and the key that nobody else can change."""
    from cryptography.exceptions import InvalidSignature

    library = _library()
    with _private_folder() as private:
        (private / store.SIGNATURE).write_bytes(signature)
        (private / PUBLIC_KEY).write_bytes(key)
        config = library.verifying.Config()
        config.use_elliptic_key_verifier(public_key=private / PUBLIC_KEY)
        config.set_hashing_config(_files_but((), library))  # the statement adds what it leaves out
        try:
            config.verify(folder.resolve(), private / store.SIGNATURE)
        except InvalidSignature as cause:
            raise VerificationError(
                f"{folder / store.SIGNATURE}: was changed after signing; restore it, or sign "
                f"again: {HOW_TO_SIGN}"
            ) from cause
        except (OSError, *_UNREADABLE) as cause:
            raise VerificationError(
                f"{folder}: is not what was signed ({_differences(folder, signature) or cause}); "
                f"restore it, or sign again: {HOW_TO_SIGN}"
            ) from cause


def _signed_manifest(folder: Path, signature: bytes) -> Mapping[str, Any]:
    """The manifest from bytes that the proven statement names."""
    signed = _statement(folder, signature).get(bundle.MANIFEST)
    try:
        content = (folder / bundle.MANIFEST).read_bytes()
        if hashlib.sha256(content).hexdigest() == signed:
            return dict(json.loads(content))
    except (OSError, TypeError, ValueError) as cause:
        raise VerificationError(f"{folder / bundle.MANIFEST}: cannot be read") from cause
    raise VerificationError(f"{folder}: {_EXCHANGED}")


def _differences(folder: Path, signature: bytes) -> str:
    """Which files are not as they were signed, for people."""
    signed = _statement(folder, signature)
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    covered = {n for n in found if n != store.SIGNATURE and not n.endswith(PIPELINES)}
    return ", ".join(
        [f"{name} is missing" for name in sorted(signed.keys() - found)]
        + [f"{name} was added" for name in sorted(covered - signed.keys())]
        + [
            f"{name} differs"
            for name in sorted(signed.keys() & found)
            if _differs(folder / name, signed[name])
        ]
    )


def _differs(path: Path, digest: str) -> bool:
    try:
        return path.is_symlink() or hashlib.sha256(path.read_bytes()).hexdigest() != digest
    except OSError:
        return True


def _statement(folder: Path, signature: bytes) -> dict[str, str]:
    """File to SHA-256 as the statement in a signature says."""
    envelope = _part(folder, signature, "dsseEnvelope")
    try:
        statement = json.loads(base64.b64decode(envelope["payload"], validate=True))
        return {
            str(file["name"]): str(file["digest"]) for file in statement["predicate"]["resources"]
        }
    except _UNREADABLE as cause:
        raise _unreadable(folder) from cause


def _part(folder: Path, signature: bytes, name: str) -> Any:
    """A part of the signature's document.

    The document may have its own keys only: a second spelling of one could make the library read
    another statement than is read here.
    """
    try:
        document = json.loads(signature)
        known = document.keys() == {"mediaType", "verificationMaterial", "dsseEnvelope"}
        envelope = document["dsseEnvelope"].keys() == {"payload", "payloadType", "signatures"}
        named = isinstance(document["verificationMaterial"]["publicKey"]["hint"], str)
        if known and envelope and named:
            return document[name]
    except _UNREADABLE as cause:
        raise _unreadable(folder) from cause
    raise _unreadable(folder)


def _unreadable(folder: Path) -> VerificationError:
    return VerificationError(
        f"{folder / store.SIGNATURE}: is no signature of a model, or not the whole of one; restore "
        f"it, or sign again: {HOW_TO_SIGN}"
    )


# -- the library -----------------------------------------------------------------------------


def _library() -> ModuleType:
    """``model_signing``, imported where a signature is made or checked and nowhere else.

    It brings some 30 MB and 0.3 s, which a service without signatures need not pay.
    """
    try:
        import model_signing
    except ImportError as cause:
        raise VerificationError(
            f"signatures cannot be checked: {cause.name} is not installed; install the locked "
            "packages"
        ) from cause
    return model_signing


def _files_but(left_out: Sequence[str], library: ModuleType) -> Any:
    """How files are hashed: each one, by SHA-256, but the signature itself and those left out."""
    config = library.hashing.Config().use_file_serialization(hashing_algorithm="sha256")
    return config.set_ignored_paths(paths=[store.SIGNATURE, *left_out], ignore_git_paths=False)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder of this user alone, gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(prefix="heartdx-") as name:
            yield Path(name)
    except OSError as cause:
        raise VerificationError(
            f"signatures need a folder for temporary files ({cause.strerror}); let this user write "
            "to /tmp or to TMPDIR"
        ) from cause
