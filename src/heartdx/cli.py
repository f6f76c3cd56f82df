"""The command ``heartdx``: the runbook's steps, one command each.

Heavy imports happen inside the commands, so that ``heartdx --help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heartdx import __version__, logs, model_commands, settings
from heartdx.contract import SITE_NAMES
from heartdx.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    BundleError,
    ContractError,
    HeartdxError,
    NoModelError,
    UnavailableError,
    UsageError,
)

if TYPE_CHECKING:
    from heartdx.bundle import Bundle
    from heartdx.evaluation.panels import Plan

DATA = Path("data/raw/heart.csv")
FIGURES = Path("reports/figures")
MODELS = Path("models")
REPORTS = Path("reports")
MOST_PORT = 65_535
ALL_CORES = -1
FULL_REPEATS = 10
MOST_SEED = 10**9
"""Seeds derived from it stay below what NumPy takes."""


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Parameters
    ----------
    name : as typed.
    summary : one line for the overview.
    example : a whole command line that works.
    options : adds the options to a parser.
    run : does it; returns the exit code.
    """

    name: str
    summary: str
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, settings.Settings], int]


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run a command and give its exit code (see ``heartdx.errors``).

    Parameters
    ----------
    argv : command and options; the process's own by default.
    prog : how the command was called, when an entry of the runbook stands for one command.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parsed(words, prog)
        chosen = settings.read(os.environ)
        logs.set_up(level=arguments.log_level or chosen.log_level)
        command: Command = arguments.command
        code = command.run(arguments, chosen)
        sys.stdout.flush()
        return code
    except HeartdxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as absent:
        library = (absent.name or "").split(".")[0]
        if library in {"", "heartdx"}:
            raise
        print(
            f"error: {library} is not installed; this command needs more than the service does: "
            "pip install 'heartdx[train]'",
            file=sys.stderr,
        )
        return UnavailableError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _parsed(words: list[str], prog: str | None) -> argparse.Namespace:
    if prog is not None:
        command = next(c for c in COMMANDS if c.name == words[0])
        parser = argparse.ArgumentParser(prog, **_texts(command, prog))
        add_options(command, parser)
        return parser.parse_args(words[1:])
    return _overview().parse_args(words)


def _overview() -> argparse.ArgumentParser:
    steps = "\n".join(f"  {command.example}" for command in COMMANDS)
    parser = argparse.ArgumentParser(
        "heartdx",
        description="From patient tables to a probability of coronary artery disease at "
        "angiography: get the data, explore, train, serve.",
        epilog=f"examples:\n{steps}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"heartdx {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        texts = _texts(command, f"heartdx {command.name}")
        add_options(command, commands.add_parser(command.name, help=command.summary, **texts))
    return parser


def _texts(command: Command, prog: str) -> dict[str, Any]:
    example = command.example.replace(f"heartdx {command.name}", prog)
    return {
        "description": command.summary,
        "epilog": f"example:\n  {example}",
        "formatter_class": argparse.RawDescriptionHelpFormatter,
    }


def add_options(command: Command, parser: argparse.ArgumentParser) -> None:
    """A command's own options and those that all have."""
    command.options(parser)
    parser.add_argument(
        "--log-level", choices=settings.LOG_LEVELS, help="how much is told on stderr (INFO)"
    )
    parser.set_defaults(command=command)


# -- fetch -----------------------------------------------------------------------------------


def _fetch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=DATA, help=f"file to write ({DATA})")
    parser.add_argument(
        "--source",
        choices=("auto", "uci", "embedded"),
        default="auto",
        help="auto: UCI over https, else the copy in the package (auto)",
    )
    parser.add_argument("--url", help="another base address of the four files")
    _site_option(parser)
    parser.add_argument("--timeout", type=_seconds, default=10.0, help="seconds to wait (10)")


def _fetch(arguments: argparse.Namespace, _: settings.Settings) -> int:
    from heartdx import acquire

    fetched = acquire.fetch(
        arguments.output,
        source=arguments.source,
        url=arguments.url,
        sites=arguments.site,
        timeout=arguments.timeout,
    )
    counts = ", ".join(f"{site} {count}" for site, count in fetched.sites.items())
    print(f"{arguments.output}: {fetched.rows} patients ({counts}), source {fetched.source}")
    _next(arguments.output, f"python -m src.eda --data {arguments.output} --out {FIGURES}")
    return EXIT_DONE


# -- explore ---------------------------------------------------------------------------------


def _explore_options(parser: argparse.ArgumentParser) -> None:
    _data_option(parser)
    parser.add_argument(
        "--out", type=Path, default=FIGURES, help=f"folder of figures and tables ({FIGURES})"
    )
    parser.add_argument("--html", type=Path, help="the page to write (eda.html above --out)")


def _explore(arguments: argparse.Namespace, _: settings.Settings) -> int:
    from heartdx import checks, explore

    data = checks.load(arguments.data, strict=arguments.strict, sites=arguments.site)
    explored = explore.explore(data, out=arguments.out, html=arguments.html)
    print(f"{explored.html}: {len(data.frame)} patients, {len(explored.files)} figures and tables")
    _next(
        arguments.out,
        f"python -m src.model_train --data {arguments.data} --models-dir {MODELS} "
        f"--reports-dir {REPORTS}",
    )
    return EXIT_DONE


# -- train -----------------------------------------------------------------------------------


def _train_options(parser: argparse.ArgumentParser) -> None:
    _data_option(parser)
    parser.add_argument("--models-dir", type=Path, help=f"({MODELS})")
    parser.add_argument("--reports-dir", type=Path, default=REPORTS, help=f"({REPORTS})")
    _protocol_options(parser, repeats=2)
    parser.add_argument(
        "--no-tracking", action="store_true", help="do not log to MLflow (HEARTDX_TRACKING=off)"
    )
    parser.add_argument(
        "--abstain-when",
        default="",
        help="leave the decision open where the calibration range straddles the threshold "
        "(straddle), where the patient is far from the training population (far), or both "
        "(straddle,far); declared in the model (never)",
    )


def _train(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    from heartdx import checks, tracking
    from heartdx.reliability import Policy
    from heartdx.train import report, steps

    policy = Policy.declared(arguments.abstain_when)
    data = checks.load(arguments.data, strict=arguments.strict, sites=arguments.site)
    plan = _plan(arguments, comparators=False)
    models_dir = arguments.models_dir or chosen.models_dir
    tracked = chosen.tracking == "on" and not arguments.no_tracking
    trained = steps.train(
        data,
        plan,
        models_dir=models_dir,
        reports_dir=arguments.reports_dir,
        tracker=tracking.Tracker(uri=chosen.tracking_uri) if tracked else None,
        progress=_progress,
        policy=policy,
    )
    print(report.summary(trained.results.panels))
    for name, result in trained.results.panels.items():
        print(f"{name}: {result.choice.reason}")
    for name, reason in trained.results.skipped.items():
        print(f"{name}: not trained; {reason}")
    print(f"model {trained.bundle.version} is current in {models_dir}/")
    elsewhere = f"HEARTDX_MODELS_DIR={models_dir} " if models_dir != MODELS else ""
    _next(arguments.reports_dir, f"{elsewhere}uvicorn src.api:app --host 0.0.0.0 --port 8000")
    return EXIT_DONE


def _progress(results: Iterator[Any], total: int) -> Iterator[Any]:
    """A bar on a terminal, a line every quarter elsewhere."""
    if sys.stderr.isatty() and "CI" not in os.environ:
        from tqdm import tqdm

        yield from tqdm(results, total=total, desc="training", unit="fit", file=sys.stderr)
        return
    logger = logs.get("train")
    for done, result in enumerate(results, start=1):
        if done * 4 // total > (done - 1) * 4 // total:
            logs.event(logger, "fits done", done=done, of=total)
        yield result


# -- evaluate --------------------------------------------------------------------------------


def _evaluate_options(parser: argparse.ArgumentParser) -> None:
    _data_option(parser)
    parser.add_argument(
        "--full",
        action="store_true",
        help="judge the way models are made on these data: comparators, bootstrap, recalibration, "
        "missing data, groups (minutes); without it a model is judged on the file",
    )
    parser.add_argument("--model", type=Path, help="a bundle folder (the current one)")
    parser.add_argument("--models-dir", type=Path, help=f"({MODELS})")
    parser.add_argument("--reports-dir", type=Path, default=REPORTS, help=f"({REPORTS})")
    _protocol_options(parser, repeats=FULL_REPEATS)
    parser.add_argument(
        "--bootstraps", type=_count(2), default=200, help="models for optimism (200, --full only)"
    )


def _evaluate(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    if arguments.full:
        return _evaluate_in_full(arguments)
    return _evaluate_file(arguments, chosen)


def _evaluate_in_full(arguments: argparse.Namespace) -> int:
    from heartdx import checks
    from heartdx.evaluation import run
    from heartdx.train import steps

    if arguments.model:
        raise UsageError("--full judges how models are made, not one model; leave out --model")
    data = checks.load(arguments.data, strict=arguments.strict, sites=arguments.site)
    plan = _plan(arguments, comparators=True)
    document, results = run.full(
        data,
        plan,
        progress=_progress,
        verdicts=lambda results: steps.verdicts(data, plan, results),
        bootstraps=arguments.bootstraps,
    )
    run.write_out_of_fold(data, results, arguments.reports_dir / run.OUT_OF_FOLD)
    return _evaluated(document, arguments.reports_dir, "evaluation")


def _evaluate_file(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    from heartdx import checks
    from heartdx.evaluation import external

    model = _chosen_bundle(arguments, chosen)
    data = checks.load(arguments.data, strict=arguments.strict, sites=arguments.site)
    document = external.document(data, model, seed=arguments.seed)
    return _evaluated(document, arguments.reports_dir, f"evaluation_{arguments.data.stem}")


def _evaluated(document: Mapping[str, Any], reports_dir: Path, stem: str) -> int:
    from heartdx.evaluation import run

    run.write(document, reports_dir, stem=stem)
    for sentence in document["summary"]:
        print(sentence)
    _next(reports_dir / f"{stem}.html", f"open {reports_dir / stem}.html in a browser")
    return EXIT_DONE


# -- report ----------------------------------------------------------------------------------


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "document",
        choices=("card", "tripod", "probast"),
        help="card: model card; tripod: TRIPOD+AI, 27 items; probast: PROBAST+AI self-assessment",
    )
    parser.add_argument("--reports-dir", type=Path, default=REPORTS, help=f"({REPORTS})")
    parser.add_argument("--models-dir", type=Path, help=f"({MODELS})")
    parser.add_argument("--model", type=Path, help="a bundle folder (the current one)")
    parser.add_argument("--output", type=Path, help="file to write (standard output)")


def _report(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    from heartdx import atomic, documents
    from heartdx.documents.facts import Facts

    source = arguments.reports_dir / "evaluation.json"
    try:
        evaluation = json.loads(source.read_bytes())
    except FileNotFoundError as cause:
        raise UnavailableError(
            f"{source}: there is no evaluation yet; make one with: heartdx evaluate --full"
        ) from cause
    except (OSError, ValueError) as cause:
        raise ContractError(
            f"{source}: cannot be read as an evaluation; make it again with: heartdx evaluate "
            "--full"
        ) from cause
    manifest = None
    with contextlib.suppress(NoModelError):  # a full evaluation needs no trained model
        manifest = _chosen_bundle(arguments, chosen).manifest
    text = documents.render(arguments.document, Facts(evaluation, manifest))
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        atomic.write_text(arguments.output, text)
        print(f"{arguments.output}: {arguments.document} of {source}")
    return EXIT_DONE


# -- serve -----------------------------------------------------------------------------------


def _serve_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=_count(0, MOST_PORT), default=8000, help="(8000)")
    parser.add_argument("--workers", type=_count(1), default=1, help="processes (1)")


def _serve(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    import uvicorn

    from heartdx import bundle

    with contextlib.suppress(NoModelError, BundleError):  # the service starts and says so itself
        bundle.locate(models_dir=chosen.models_dir, model_path=chosen.model_path)
    os.environ[settings.variable("log_level")] = arguments.log_level or chosen.log_level
    uvicorn.run(
        "heartdx.serve:from_environment",
        factory=True,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        access_log=False,
    )
    return EXIT_DONE


# -- score -----------------------------------------------------------------------------------


def _score_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="CSV in any known coding, or Parquet, of patients")
    parser.add_argument(
        "--output",
        type=Path,
        help="CSV or Parquet to write, by its suffix, else as the file (CSV on standard output)",
    )
    parser.add_argument("--models-dir", type=Path, help=f"({MODELS})")
    parser.add_argument("--model", type=Path, help="a bundle folder (the current one)")
    parser.add_argument("--strict", action="store_true", help="refuse a CSV with any deception")
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="write bad rows too, without a probability and with what is wrong in a column error",
    )
    parser.add_argument(
        "--with-input", action="store_true", help="write the file's own columns beside the answers"
    )
    parser.add_argument(
        "--coding",
        choices=("auto", "uci"),
        default="auto",
        help="uci: numbers are UCI's codes; auto: look for evidence (auto)",
    )


def _score(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    from heartdx import scoring

    model = _chosen_bundle(arguments, chosen)
    logger = logs.get("score")
    scored = scoring.score_file(
        arguments.file,
        arguments.output,
        model=model,
        strict=arguments.strict,
        keep_going=arguments.keep_going,
        with_input=arguments.with_input,
        coding=arguments.coding,
        told=lambda sentence: logs.event(logger, sentence),
        progress=lambda rows, seconds: logs.event(
            logger, "scoring", rows=rows, rows_per_second=round(rows / seconds)
        ),
    )
    if scored.refused:
        logs.event(logger, "rows without an answer", refused=scored.refused, of=scored.rows)
    if arguments.output is not None:
        answered = scored.rows - scored.refused
        print(f"{arguments.output}: {answered} patients scored by model {model.version}")
    return EXIT_DONE


# -- model -----------------------------------------------------------------------------------


def _model(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    told = model_commands.run(arguments, chosen)
    for line in told.lines:
        print(line)
    return told.exit_code


# -- key -------------------------------------------------------------------------------------


def _key_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("new",), help="new: make a key, add its hash to a file")
    parser.add_argument("--name", required=True, help="the client the key is for")
    parser.add_argument("--file", type=Path, required=True, help="file of names and hashes")


def _key(arguments: argparse.Namespace, _: settings.Settings) -> int:
    from heartdx.serve import keys

    print(keys.new(arguments.name, place=arguments.file))
    print(f"{arguments.file}: holds its hash; the key is shown this once", file=sys.stderr)
    return EXIT_DONE


# -- doctor ----------------------------------------------------------------------------------


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, help=f"({DATA})")
    parser.add_argument("--models-dir", type=Path, help=f"({MODELS})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(arguments: argparse.Namespace, chosen: settings.Settings) -> int:
    from heartdx import doctor

    findings = doctor.examine(
        data=arguments.data,
        models_dir=arguments.models_dir or chosen.models_dir,
        chosen=chosen,
    )
    if arguments.json:
        print(json.dumps([finding.document() for finding in findings], indent=1))
    else:
        for finding in findings:
            print(finding)
    return max(finding.exit_code for finding in findings)


# -- options in common -----------------------------------------------------------------------


def _chosen_bundle(arguments: argparse.Namespace, chosen: settings.Settings) -> Bundle:
    """The model a command works with; signed as the settings ask, as in the service."""
    from heartdx import bundle, signing

    folder = bundle.locate(
        models_dir=arguments.models_dir or chosen.models_dir,
        model_path=arguments.model or chosen.model_path,
    )
    return signing.load(folder, chosen)


def _data_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=DATA, help=f"patients as CSV ({DATA})")
    parser.add_argument("--strict", action="store_true", help="refuse a file with any deception")
    _site_option(parser)


def _protocol_options(parser: argparse.ArgumentParser, *, repeats: int) -> None:
    parser.add_argument("--cv-splits", type=_count(2), default=5, help="outer folds (5)")
    parser.add_argument(
        "--repeats", type=_count(1), default=repeats, help=f"of the outer folds ({repeats})"
    )
    parser.add_argument(
        "--seed", type=_count(0, MOST_SEED), default=2024, help="of all that is random (2024)"
    )
    parser.add_argument("--jobs", type=_count(1), help="processes (all cores)")
    parser.add_argument(
        "--harm-ratio",
        type=_ratio,
        default=1.0,
        help="harm of missing a diseased patient over harm of a false alarm; the decision "
        "threshold is 1 / (1 + ratio) (1: threshold 0.5)",
    )


def _plan(arguments: argparse.Namespace, *, comparators: bool) -> Plan:
    from heartdx.evaluation.panels import Plan

    return Plan(
        splits=arguments.cv_splits,
        repeats=arguments.repeats,
        seed=arguments.seed,
        jobs=arguments.jobs or ALL_CORES,
        harm_ratio=arguments.harm_ratio,
        comparators=comparators,
    )


def _site_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--site", action="append", choices=SITE_NAMES, help="this hospital only; may be repeated"
    )


def _count(least: int, most: int | None = None) -> Callable[[str], int]:
    expected = f"a whole number of at least {least}" + (f" and at most {most}" if most else "")

    def whole(text: str) -> int:
        if (text.isascii() and text.isdigit()) and least <= int(text) <= (most or int(text)):
            return int(text)
        raise argparse.ArgumentTypeError(f"expected {expected}")

    return whole


def _seconds(text: str) -> float:
    return _positive(text, "seconds above 0")


def _ratio(text: str) -> float:
    return _positive(text, "a ratio above 0, for example 4")


def _positive(text: str, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {expected}")
    return number


def _next(place: Path, command: str) -> None:
    print(f"written to {place}; next: {command}", file=sys.stderr)


COMMANDS: tuple[Command, ...] = (
    Command(
        "fetch",
        "Get the data of the four hospitals.",
        f"heartdx fetch --output {DATA}",
        _fetch_options,
        _fetch,
    ),
    Command(
        "explore",
        "Draw and tabulate the data.",
        f"heartdx explore --data {DATA} --out {FIGURES}",
        _explore_options,
        _explore,
    ),
    Command(
        "train",
        "Train, compare, evaluate and make a model current.",
        f"heartdx train --data {DATA} --models-dir {MODELS} --reports-dir {REPORTS}",
        _train_options,
        _train,
    ),
    Command(
        "evaluate",
        "Judge a model, or with --full how models are made.",
        f"heartdx evaluate --full --data {DATA} --reports-dir {REPORTS}",
        _evaluate_options,
        _evaluate,
    ),
    Command(
        "report",
        "Write the model card, TRIPOD+AI or PROBAST+AI.",
        f"heartdx report card --output {REPORTS}/card.md",
        _report_options,
        _report,
    ),
    Command(
        "serve",
        "Serve the current model over HTTP.",
        "heartdx serve --port 8000",
        _serve_options,
        _serve,
    ),
    Command(
        "score",
        "Score a file of patients with the current model.",
        f"heartdx score {DATA} --output scored.csv",
        _score_options,
        _score,
    ),
    Command(
        "model",
        "List, switch, roll back, verify, sign and stop models.",
        "heartdx model list",
        model_commands.options,
        _model,
    ),
    Command(
        "key",
        "Make an API key for a client of the service.",
        "heartdx key new --name ward --file keys.txt",
        _key_options,
        _key,
    ),
    Command(
        "doctor",
        "Check this installation, its data and its model.",
        "heartdx doctor",
        _doctor_options,
        _doctor,
    ),
)

if __name__ == "__main__":
    sys.exit(main())
