"""``heartdx model …``: what the person on call does to the model that is served.

Each action is a function from arguments and settings to the lines to print and the exit code;
the command line prints them. Heavy imports happen inside the actions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heartdx.errors import EXIT_DONE, NoModelError, VerificationError
from heartdx.settings import Settings, variable

if TYPE_CHECKING:
    from heartdx.store import Entry, Load, Switch

MODELS = Path("models")
USE = "heartdx model use"
SHOWN = 12
"""Digits of a digest that people are shown; also a model's version."""


@dataclass(frozen=True)
class Told:
    """What an action has to say.

    Parameters
    ----------
    lines : for standard output.
    exit_code : see ``heartdx.errors``.
    """

    lines: tuple[str, ...]
    exit_code: int = EXIT_DONE


@dataclass(frozen=True)
class Action:
    """One action of ``heartdx model``.

    Parameters
    ----------
    name : as typed after ``heartdx model``.
    summary : one line for the overview.
    example : a whole command line that works.
    options : adds the options to a parser.
    run : does it.
    """

    name: str
    summary: str
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Settings], Told]


def options(parser: argparse.ArgumentParser) -> None:
    """The actions, each with its own options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for action in ACTIONS:
        own = actions.add_parser(
            action.name,
            help=action.summary,
            description=action.summary,
            epilog=f"example:\n  {action.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.options(own)
        own.set_defaults(run_action=action.run)


def run(arguments: argparse.Namespace, chosen: Settings) -> Told:
    """Do the action that the command line names."""
    told: Told = arguments.run_action(arguments, chosen)
    return told


# -- list ------------------------------------------------------------------------------------


def _list_options(parser: argparse.ArgumentParser) -> None:
    _models_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _list(arguments: argparse.Namespace, chosen: Settings) -> Told:
    from heartdx import store

    models_dir = _models(arguments, chosen)
    found = store.entries(models_dir, load=_load(chosen))
    reason = store.stopped(models_dir)
    if arguments.json:
        document = {"stopped": reason, "models": [asdict(entry) for entry in found]}
        return Told((json.dumps(document, indent=1),))
    if not found:
        return Told((f"{models_dir}: no models yet",))
    stop = () if reason is None else (f"STOPPED: {reason} (`heartdx model start` ends it)",)
    return Told((*stop, *_table(found, checked=chosen.public_key is not None)))


def _table(found: list[Entry], *, checked: bool) -> list[str]:
    signed = {False: "no", True: "yes" if checked else "unchecked"}
    lines = [_row("digest", "made", "", "signed", "state")]
    for entry in found:
        place = "current" if entry.is_current else "previous" if entry.is_previous else ""
        state = entry.problem or "verified"
        lines.append(
            _row(entry.digest[:SHOWN], entry.created, place, signed[entry.is_signed], state)
        )
    return lines


def _row(digest: str, made: str, place: str, signed: str, state: str) -> str:
    return f"{digest:<12}  {made or '-':<25}  {place:<8}  {signed:<9}  {state}".rstrip()


# -- use, rollback ---------------------------------------------------------------------------


def _use_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("digest", help="the model's digest, or its first 6 or more digits")
    _models_option(parser)


def _use(arguments: argparse.Namespace, chosen: Settings) -> Told:
    from heartdx import store

    models_dir = _models(arguments, chosen)
    digest = store.find(models_dir, arguments.digest)
    done = store.switch(models_dir, digest, by=USE, load=_load(chosen))
    return _switched(done, models_dir)


def _rollback(arguments: argparse.Namespace, chosen: Settings) -> Told:
    from heartdx import store

    models_dir = _models(arguments, chosen)
    return _switched(store.rollback(models_dir, load=_load(chosen)), models_dir)


def _switched(done: Switch, models_dir: Path) -> Told:
    if done.before == done.after:
        return Told((f"{models_dir}: {done.after[:SHOWN]} is current already",))
    before = "nothing" if done.before is None else done.before[:SHOWN]
    return Told((f"{models_dir}: from {before} to {done.after[:SHOWN]}",))


# -- verify ----------------------------------------------------------------------------------


def _verify_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("digest", nargs="?", help="the model's digest or its first digits (current)")
    which.add_argument("--all", action="store_true", help="every model of the folder")
    _models_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _verify(arguments: argparse.Namespace, chosen: Settings) -> Told:
    from heartdx import bundle, store

    models_dir = _models(arguments, chosen)
    if arguments.all:
        found = store.entries(models_dir, load=_load(chosen))
    else:
        digest = (
            store.find(models_dir, arguments.digest)
            if arguments.digest
            else bundle.current_folder(models_dir).name
        )
        found = [store.entry(models_dir, digest, load=_load(chosen))]
    if not found:
        raise NoModelError(f"{models_dir}: no models yet; make one with: {bundle.HOW_TO_TRAIN}")
    code = VerificationError.exit_code if any(entry.problem for entry in found) else EXIT_DONE
    if arguments.json:
        return Told((json.dumps([asdict(entry) for entry in found], indent=1),), code)
    return Told(tuple(_verdict(entry, chosen) for entry in found), code)


def _verdict(entry: Entry, chosen: Settings) -> str:
    if entry.problem:
        return f"FAIL {entry.digest[:SHOWN]}: {entry.problem}"
    signature = {
        (True, True): "signed with the key of " + variable("public_key"),
        (True, False): f"signature not checked ({variable('public_key')} is not set)",
    }.get((entry.is_signed, chosen.public_key is not None), "not signed")
    return f"ok   {entry.digest[:SHOWN]}: checksums, digest, golden records; {signature}"


# -- stop, start -----------------------------------------------------------------------------


def _stop_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", required=True, help="one line, shown to clients")
    _models_option(parser)


def _stop(arguments: argparse.Namespace, chosen: Settings) -> Told:
    from heartdx import store

    models_dir = _models(arguments, chosen)
    store.stop(models_dir, arguments.reason)
    return Told((f"{models_dir}: stopped; `heartdx model start` ends it",))


def _start(arguments: argparse.Namespace, chosen: Settings) -> Told:
    from heartdx import store

    models_dir = _models(arguments, chosen)
    reason = store.start(models_dir)
    if reason is None:
        return Told((f"{models_dir}: was not stopped",))
    return Told((f"{models_dir}: no longer stopped ({reason})",))


# -- keys and signatures ---------------------------------------------------------------------


def _key_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("new",), help="new: make a pair of keys")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for private.pem and public.pem"
    )


def _key(arguments: argparse.Namespace, _: Settings) -> Told:
    from heartdx import signing

    keys = signing.new_key(arguments.out)
    return Told(
        (
            f"{keys.private}: signs; keep it away from the machines that serve",
            f"{keys.public}: verifies; name it in {variable('public_key')} there",
            f"fingerprint {keys.fingerprint[:SHOWN]}",
        )
    )


def _sign_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("digest", help="the model's digest, or its first 6 or more digits")
    parser.add_argument("--key", type=Path, required=True, help="file of the private key")
    _models_option(parser)


def _sign(arguments: argparse.Namespace, chosen: Settings) -> Told:
    from heartdx import bundle, signing, store

    models_dir = _models(arguments, chosen)
    digest = store.find(models_dir, arguments.digest)
    written = signing.sign(models_dir / bundle.BUNDLES / digest, arguments.key)
    return Told((f"{written}: {digest[:SHOWN]} is signed",))


# -- options in common -----------------------------------------------------------------------


def _models_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models-dir", type=Path, help=f"({MODELS})")


def _models(arguments: argparse.Namespace, chosen: Settings) -> Path:
    folder: Path = arguments.models_dir or chosen.models_dir
    return folder


def _load(chosen: Settings) -> Load:
    """Verifies as the service would with these settings."""
    from heartdx import signing

    return lambda folder: signing.load(folder, chosen)


ACTIONS: tuple[Action, ...] = (
    Action(
        "list",
        "Show every model: when made, current, previous, signed, verified.",
        "heartdx model list",
        _list_options,
        _list,
    ),
    Action(
        "use",
        "Make a model the current one, after verifying it.",
        "heartdx model use 630f6a6cbce8",
        _use_options,
        _use,
    ),
    Action(
        "rollback",
        "Go back to the model that was current before.",
        "heartdx model rollback",
        _models_option,
        _rollback,
    ),
    Action(
        "verify",
        "Check checksums, digest, golden records and signature.",
        "heartdx model verify --all",
        _verify_options,
        _verify,
    ),
    Action(
        "stop",
        "Answer 503 with a reason instead of probabilities, on every service of the folder.",
        'heartdx model stop --reason "implausible answers since 14:00"',
        _stop_options,
        _stop,
    ),
    Action(
        "start",
        "Answer again.",
        "heartdx model start",
        _models_option,
        _start,
    ),
    Action(
        "key",
        "Make a pair of keys for signing models.",
        "heartdx model key new --out keys",
        _key_options,
        _key,
    ),
    Action(
        "sign",
        "Sign a model, after verifying it.",
        "heartdx model sign 630f6a6cbce8 --key keys/private.pem",
        _sign_options,
        _sign,
    ),
)
