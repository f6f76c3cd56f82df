"""Make .venv with everything heartdx needs. `make setup` and `make setup-dev` call this.

    python3 tools/bootstrap.py          what the runbook needs (requirements.lock)
    python3 tools/bootstrap.py --dev    that and what tests and checks need

Any Python from 3.6 can run this file; it imports the standard library only. It finds a Python of
3.12 or newer by running every candidate (a command can be a shim that fails), or lets uv fetch
one; finds uv, or installs it into .tools/; installs the locked, hash-checked packages and then
the project. A second run sees that nothing changed and does nothing, without network.
"""

# The system's own calls, which are the same in every Python 3.
# ruff: noqa: PTH100, PTH103, PTH104, PTH107, PTH110, PTH111, PTH112, PTH118, PTH120, PTH207

import argparse
import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

try:
    import fcntl
except ImportError:  # not POSIX: two set-ups at once are then on their own
    fcntl = None

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "heartdx-setup.json")
TOOLS = os.path.join(ROOT, ".tools")
UNFINISHED = os.path.join(TOOLS, "setup-unfinished")
UV_LOCK = os.path.join("tools", "uv.lock.txt")

OLDEST_PYTHON = (3, 12)
FETCHED_PYTHON = "3.12"
OLDEST_UV = (0, 8)  # first with `uv venv --clear`
LOCKS = {
    "run": ["requirements.lock"],
    "dev": ["requirements-dev.lock", "requirements-testdata.txt"],
}
NEEDED_MODULES = ("ssl", "sqlite3", "zlib", "bz2", "lzma", "ctypes")

PROBE = (
    "import json, sys\n"
    "missing = []\n"
    f"for name in {NEEDED_MODULES!r}:\n"
    "    try:\n"
    "        __import__(name)\n"
    "    except ImportError:\n"
    "        missing.append(name)\n"
    "print(json.dumps([list(sys.version_info[:3]), sys.executable, missing]))\n"
)

# What a shell, another environment or a site's settings may carry that would bend this set-up.
DROPPED_VARIABLES = [
    "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONUSERBASE",
    "PYTHONSTARTUP",
    "PYTHONPLATLIBDIR",
    "__PYVENV_LAUNCHER__",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "CONDA_PYTHON_EXE",
    "PIP_TARGET",
    "PIP_USER",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_PYTHON",
    "PIP_CONSTRAINT",
    "PIP_NO_DEPS",
    "PIP_REQUIREMENT",
    "PIP_REQUIRE_HASHES",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_QUIET",
    "UV_SYSTEM_PYTHON",
    "UV_PYTHON",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_WORKING_DIR",
    "UV_WORKING_DIRECTORY",
    "UV_TARGET",
    "UV_PREFIX",
    "UV_REQUIRE_HASHES",
    "UV_CONSTRAINT",
    "UV_OVERRIDE",
    "UV_EXCLUDE",
    "UV_BUILD_CONSTRAINT",
    "UV_NO_BUILD",
    "UV_NO_BINARY",
    "UV_NO_BUILD_ISOLATION",
    "UV_RESOLUTION",
    "UV_PRERELEASE",
    "UV_EXCLUDE_NEWER",
    "UV_NO_VERIFY_HASHES",
    "UV_VENV_CLEAR",
    "UV_VENV_SEED",
    "UV_TORCH_BACKEND",
]

DISK_FULL = (
    "the disk is full: free about 3 GB where the project and the package cache lie (`uv cache "
    "clean` empties the cache, UV_CACHE_DIR moves it), then run the same command again"
)
# What uv or pip write when something outside the project is at fault -> what to do.
MENDS = (
    (r"no space left on device|os error 28\b|errno 28\b|disk quota exceeded", DISK_FULL),
    (
        r"certificate|ssl error|sslerror|\btls\b",
        "the package index was reached but its certificate is not trusted here: name your site's "
        "certificates with SSL_CERT_FILE=/path/to/ca.pem, then run the same command again",
    ),
    (
        r"hash mismatch|do not match the hashes",
        "the package index serves other files than those locked: do not go on before you know "
        "why; a maintainer writes new locks with `make lock`",
    ),
    (
        r"failed to fetch|error sending request|dns error|connection|connect error|timed out|"
        r"network|offline|failed to download|no matching distribution|resolving",
        "no package index could be reached: connect this machine, or name your site's mirror with "
        "UV_DEFAULT_INDEX (and PIP_INDEX_URL) or a proxy with HTTPS_PROXY, then run the same "
        "command again; once set up, nothing needs the network",
    ),
)
NO_PYTHON = (
    "no Python 3.12 or newer was found and uv could not fetch one; install one (Debian 13 and "
    "Ubuntu 24.04: apt-get install python3; Fedora: dnf install python3.12; macOS: brew install "
    "python@3.13; anywhere: pyenv install 3.12), then run the same command again"
)
NO_UV = (
    "uv could not be installed: none of the Pythons found has a working venv or pip; install "
    "either (Debian, Ubuntu: apt-get install python3-venv) or uv itself, then run the same "
    "command again. Tried: "
)


class SetupError(Exception):
    """What a user can mend, in one sentence; the cause may lie outside (disk, network)."""

    def __init__(self, text, outside=False):
        super().__init__(text)
        self.outside = outside


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    parser.add_argument("--python", default="", help="a version (3.13) or a path to use")
    parser.add_argument("--uv", action="store_true", help="only make sure of uv; print its path")
    parser.add_argument("--which", metavar="VERSION", help="only print a Python of this version")
    options = parser.parse_args(arguments)
    try:
        if options.which:
            found = project_python(options.which)
            if not found:
                raise SetupError(f"no Python {options.which} was found on this machine")
            print(found)
        elif options.uv:
            print(uv_command(clean_environment(os.environ)))
        else:
            set_up(dev=options.dev, asked=options.python)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next run starts the set-up afresh")
        return 130
    return 0


def set_up(dev, asked):
    with one_at_a_time():
        stamp = read_stamp()
        level = "dev" if dev or stamp.get("level") == "dev" else "run"
        wanted = {"key": locks_key(level), "level": level, "root": ROOT}
        version = venv_version()
        fits = fits_request(version, asked)
        if fits and all(stamp.get(name) == value for name, value in wanted.items()):
            return
        environment = clean_environment(os.environ)
        uv = uv_command(environment)
        borrow_pip_settings(environment)
        if stamp_is_foreign(stamp) or os.path.exists(UNFINISHED) or not fits:
            make_venv(uv, asked, environment)
            stamp = {}
        install(uv, level, environment, exact=bool(stamp))
        wanted["python"] = ".".join(map(str, venv_version() or ()))
        write_stamp(wanted)
        say("ready: .venv (Python {})".format(wanted["python"]))


def say(text):
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def one_at_a_time():
    """Hold the set-up's lock: two `make` at once must not build the same folder."""
    try:
        os.makedirs(TOOLS, exist_ok=True)
        held = open(os.path.join(TOOLS, "setup.lock"), "w")  # noqa: SIM115
    except OSError as cause:
        raise SetupError(f"{TOOLS} cannot be written ({cause.strerror})") from cause
    with held:
        if fcntl:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say("another set-up is running here; waiting for it")
                fcntl.flock(held, fcntl.LOCK_EX)
        yield


# -- what is there already -------------------------------------------------------------------


def locks_key(level):
    """A hash of everything that decides what .venv holds."""
    digest = hashlib.sha256()
    for name in LOCKS[level] + ["pyproject.toml", UV_LOCK]:
        digest.update(name.encode("utf-8"))
        try:
            with open(os.path.join(ROOT, name), "rb") as content:
                digest.update(content.read())
        except OSError as cause:
            raise SetupError(
                f"{name} cannot be read ({cause.strerror}); is this a whole clone?"
            ) from cause
    return digest.hexdigest()


def read_stamp():
    try:
        with open(STAMP) as content:
            return dict(json.load(content))
    except (OSError, ValueError, TypeError):
        return {}


def write_stamp(content):
    with open(STAMP + ".new", "w") as out:
        json.dump(content, out)
    os.rename(STAMP + ".new", STAMP)
    os.remove(UNFINISHED)


def stamp_is_foreign(stamp):
    """Whether .venv was made for another folder (moved or copied): its scripts point there."""
    return bool(stamp) and stamp.get("root") != ROOT


def venv_version():
    """Version of .venv's Python, or None when there is none that runs."""
    facts = probe(VENV_PYTHON)
    return tuple(facts[0]) if facts else None


def fits_request(version, asked):
    if version is None or version < OLDEST_PYTHON:
        return False
    if re.match(r"\d+(\.\d+)*$", asked):
        return version_matches(version, asked)
    facts = probe(asked) if asked else None
    return not asked or bool(facts and tuple(facts[0]) == version)


def version_matches(version, asked):
    parts = tuple(int(part) for part in asked.split("."))
    return version[: len(parts)] == parts


# -- interpreters ----------------------------------------------------------------------------


def probe(python):
    """(version, path, missing modules) of an interpreter, or None when it does not run."""
    environment = {k: v for k, v in os.environ.items() if k not in DROPPED_VARIABLES}
    try:
        child = subprocess.Popen(
            [python, "-I", "-c", PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except (OSError, ValueError):
        return None
    try:
        out, _ = child.communicate(timeout=30)
        return tuple(json.loads(out.decode("utf-8"))) if child.returncode == 0 else None
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return None
    except (ValueError, UnicodeDecodeError):
        return None


def candidates():
    """Paths that may be a Python: by name on PATH, pyenv's versions, then whoever runs this."""
    folders = [f for f in os.environ.get("PATH", os.defpath).split(os.pathsep) if f]
    names = ["python3.14", "python3.13", "python3.12", "python3", "python"]
    names += [f"python3.{minor}" for minor in range(11, 5, -1)]
    shims = [os.path.dirname(f.rstrip("/")) for f in folders if f.rstrip("/").endswith("/shims")]
    roots = [os.environ.get("PYENV_ROOT", ""), os.path.expanduser("~/.pyenv"), *shims]
    pyenv = [p for root in roots if root for p in glob.glob(root + "/versions/*/bin/python3")]
    pyenv.sort(key=version_in_path, reverse=True)
    seen = set()
    for path in (
        [os.path.join(folder, name) for name in names[:3] for folder in folders]
        + pyenv
        + [os.path.join(folder, name) for name in names[3:] for folder in folders]
        + [sys.executable]
    ):
        if path not in seen and os.access(path, os.X_OK):
            seen.add(path)
            yield path


def version_in_path(path):
    return tuple(int(part) for part in re.findall(r"\d+", path.split("/versions/")[-1])[:3])


def project_python(asked):
    """Path of a whole Python that fits, or None; each candidate is run, not trusted."""
    if os.sep in asked:
        facts = probe(asked)
        if not facts or tuple(facts[0]) < OLDEST_PYTHON:
            raise SetupError(f"{asked} is no Python of 3.12 or newer that runs")
        return asked
    if asked and not re.match(r"\d+(\.\d+)*$", asked):
        raise SetupError(f"{asked}: expected a Python version like 3.13, or a path")
    for path in candidates():
        facts = probe(path)
        if not facts or tuple(facts[0]) < OLDEST_PYTHON:
            continue
        if asked and not version_matches(tuple(facts[0]), asked):
            continue
        if facts[2]:
            say("{} is passed over: it was built without {}".format(path, ", ".join(facts[2])))
            continue
        return path
    return None


# -- uv --------------------------------------------------------------------------------------


def uv_command(environment):
    """Path of a recent uv: our own, the one on PATH, or one installed now into .tools/."""
    own = os.path.join(TOOLS, "bin", "uv")
    for path in (own, shutil.which("uv")):
        if path and uv_version(path) >= OLDEST_UV:
            return path
    return install_uv(own, environment)


def uv_version(path):
    try:
        said = subprocess.check_output([path, "--version"], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return (0,)
    found = re.match(r"uv (\d+)\.(\d+)", said.decode("utf-8", "replace"))
    return tuple(int(part) for part in found.groups()) if found else (0,)


def install_uv(own, environment):
    """Install uv with the first Python that can: in a private venv, else with pip --target.

    Debian's Python has no ensurepip without python3-venv, and may have no pip either.
    """
    say("installing uv into .tools/ ...")
    tried, outside, folder = [], None, os.path.join(TOOLS, "uv")
    for python in candidates():
        facts = probe(python)
        if not facts or "ssl" in facts[2] or "zlib" in facts[2]:
            continue
        for steps in uv_recipes(python, folder):
            shutil.rmtree(folder, ignore_errors=True)
            try:
                for step in steps:
                    run(step, environment, quiet=True)
            except SetupError as error:
                outside = error if error.outside else outside
                continue
            os.makedirs(os.path.dirname(own), exist_ok=True)
            shutil.copy2(os.path.join(folder, "bin", "uv"), own)
            shutil.rmtree(folder, ignore_errors=True)
            if uv_version(own) >= OLDEST_UV:
                return own
        tried.append(python)
        if outside:
            raise outside
    raise SetupError(NO_UV + (", ".join(tried) or "none runs"))


def uv_recipes(python, folder):
    """Ways to get uv with one interpreter; its wheel fits every Python, whatever it declares."""
    wanted = ["install", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
    wanted += ["--ignore-requires-python", "-r", os.path.join(ROOT, UV_LOCK)]
    inside = os.path.join(folder, "bin", "python")
    venv = [python, "-I", "-m", "venv", folder]
    newer_pip = [inside, "-I", "-m", "pip", "install", "--quiet", "--upgrade", "pip"]
    return [
        [venv, [inside, "-I", "-m", "pip", *wanted]],
        [venv, newer_pip, [inside, "-I", "-m", "pip", *wanted]],
        [[python, "-I", "-m", "pip", *wanted, "--target", folder]],
    ]


def borrow_pip_settings(environment):
    """Point uv at the index and certificates that pip is set to, when uv itself is set to none."""
    given = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE", "UV_OFFLINE", "UV_NO_INDEX"}
    own_files = [os.path.expanduser("~/.config/uv/uv.toml"), "/etc/uv/uv.toml"]
    if given & set(environment) or any(os.path.exists(path) for path in own_files):
        return
    settings = pip_settings(environment)
    if settings.get("index-url"):
        environment["UV_DEFAULT_INDEX"] = settings["index-url"]
    if settings.get("cert") and "SSL_CERT_FILE" not in environment:
        environment["SSL_CERT_FILE"] = settings["cert"]


def pip_settings(environment):
    found = {}
    for python in candidates():
        command = [python, "-I", "-m", "pip", "config", "list"]
        try:
            said = subprocess.check_output(
                command, env=environment, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        for line in said.decode("utf-8", "replace").splitlines():
            name, _, value = line.partition("=")
            found[name.rpartition(".")[2]] = value.strip("'\"")
        break
    for name in ("index-url", "cert"):
        variable = environment.get("PIP_" + name.upper().replace("-", "_"))
        if variable:
            found[name] = variable
    return found


# -- the environment -------------------------------------------------------------------------


def clean_environment(environ):
    """The environment uv runs in: the user's, less what would bend it, bytecode compiled."""
    environment = {k: v for k, v in environ.items() if k not in DROPPED_VARIABLES}
    environment["UV_COMPILE_BYTECODE"] = "1"
    if not os.path.isdir("/etc/ssl/certs") and not os.path.isdir("/etc/pki"):
        return environment  # no store of the system: uv's own
    if not {"SSL_CERT_FILE", "SSL_CERT_DIR", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS"} & set(environ):
        environment["UV_SYSTEM_CERTS"] = "1"
        environment["UV_NATIVE_TLS"] = "1"  # its name before
    return environment


def make_venv(uv, asked, environment):
    python = project_python(asked)
    if python:
        say(f"making .venv with {python} ...")
    else:
        say(f"no Python {asked or '3.12 or newer'} found; asking uv for one ...")
    mark_unfinished()
    command = [uv, "venv", "--quiet", "--no-project", "--clear", "--python"]
    try:
        run([*command, python or asked or FETCHED_PYTHON, VENV], environment)
    except SetupError as error:
        if python:
            raise
        raise SetupError(DISK_FULL if str(error) == DISK_FULL else NO_PYTHON) from error


def mark_unfinished():
    """Say that .venv is being changed: a run that finds this starts from nothing."""
    try:
        open(UNFINISHED, "w").close()
        if os.path.exists(STAMP):
            os.remove(STAMP)
    except OSError as cause:
        raise SetupError(f"{UNFINISHED} cannot be written ({cause.strerror})") from cause


def install(uv, level, environment, exact):
    """The locked packages, then the project. A venv that someone else made keeps its extras."""
    mark_unfinished()
    verb = ["sync"] if exact else ["install", "--no-deps"]
    command = [uv, "pip", *verb, "--python", VENV_PYTHON, "--require-hashes"]
    for name in LOCKS[level]:
        command += [name] if exact else ["-r", name]
    say(f"installing {count(level)} locked packages (the first time takes a minute or two) ...")
    run(command, environment)
    say("installing heartdx itself ...")
    command = [uv, "pip", "install", "--python", VENV_PYTHON, "--quiet", "--offline", "--no-deps"]
    run(
        [*command, "--no-build-isolation", "--reinstall-package", "heartdx", "--editable", "."],
        environment,
    )
    run([VENV_PYTHON, "-I", "-c", "import heartdx"], environment)


def count(level):
    total = 0
    for name in LOCKS[level]:
        with open(os.path.join(ROOT, name)) as lines:
            total += sum(1 for line in lines if re.match(r"[A-Za-z0-9].*==", line))
    return total


def run(command, environment, quiet=False):
    """Run a command in the project's folder, show what it says, name the mend if it fails."""
    try:
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as cause:
        raise failure(command, str(cause)) from cause
    said = []
    for raw in child.stdout:
        line = raw.decode("utf-8", "replace")
        said.append(line)
        if not quiet and not re.match(r" [-+~] ", line):  # one line a package is too much
            sys.stderr.write("  " + line)
            sys.stderr.flush()
    child.stdout.close()
    if child.wait() != 0:
        raise failure(command, "".join(said))


def failure(command, said):
    for pattern, mend in MENDS:
        if re.search(pattern, said, re.IGNORECASE):
            return SetupError(mend, outside=True)
    last = said.strip().splitlines()[-1:] or ["it said nothing"]
    return SetupError("{} failed: {}".format(" ".join(command[:4]), last[0].strip()))


if __name__ == "__main__":
    sys.exit(main())
