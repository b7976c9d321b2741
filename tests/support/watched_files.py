"""Commands in a process of their own, with every file that they open and every address that they connect to.

An audit hook sees what Python does; where `strace` is there, it also sees what libraries do by themselves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Touched", "run_watched"]

_DRIVER = """
import json, os, sys, traceback
log, commands = open(sys.argv[1], "a", buffering=1), json.loads(sys.argv[2])
WRITES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
def place(path, follows):
    path = os.path.abspath(os.fsdecode(path))
    if follows:
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        mode, flags = arguments[1] or "", arguments[2] or 0
        writes = any(x in str(mode) for x in "wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        log.write(json.dumps(["write" if writes else "read", place(arguments[0], not flags & os.O_NOFOLLOW)]) + "\\n")
    elif event in WRITES:  # of links, these change the link
        for path in arguments[:2]:
            if isinstance(path, (str, bytes)):
                log.write(json.dumps(["write", place(path, event in ("os.truncate", "os.chmod"))]) + "\\n")
    elif event in ("socket.connect", "socket.getaddrinfo"):
        log.write(json.dumps(["connect", repr(arguments[1:] if event == "socket.connect" else arguments[:2])]) + "\\n")
from mgcda_dist.cli.main import main
sys.addaudithook(note)
codes = []
for words in commands:
    print("$", *words, flush=True)
    print("$", *words, flush=True, file=sys.stderr)
    sys.argv = ["mgcda", *words]
    try:
        main()
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code or 0)
    except BaseException:
        traceback.print_exc()
        codes.append(-1)
print("codes", json.dumps(codes), flush=True)
"""
_CALL = re.compile(r'(?:open|openat|creat)\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)*)", ([A-Z_|]+).* = (?!-1 ELOOP)')
_CONNECTED = re.compile(r"connect\(\d+, (\{sa_family=AF_INET.*?\})")


@dataclass(frozen=True)
class Touched:
    """Files read and written, as real paths, and addresses; what the commands printed, and their exit codes."""

    read: frozenset[Path]
    written: frozenset[Path]
    connected: frozenset[str]
    output: str
    codes: list[int]


def run_watched(commands: Sequence[Sequence[object]], folder: Path, timeout_s: float = 300) -> Touched:
    """Run `mgcda …` commands one after the other; `folder`/work is the current directory, `folder`/home the user's."""
    work, home, temporary = (folder / name for name in ("work", "home", "tmp"))
    for place in (work, home, temporary):
        place.mkdir(exist_ok=True)
    log, trace = folder / "audit.jsonl", folder / "strace.log"
    words = [[str(word) for word in command] for command in commands]
    call = [sys.executable, "-c", _DRIVER, str(log), json.dumps(words)]
    if shutil.which("strace"):
        what = "trace=open,openat,creat,connect"
        call = ["strace", "-f", "--seccomp-bpf", "-e", what, "-s", "4096", "-o", str(trace), "--", *call]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HF_", "RAY_"))}
    own = {"HOME": str(home), "TMPDIR": str(temporary), "MPLCONFIGDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1",
           "TORCHINDUCTOR_CACHE_DIR": str(temporary)}  # fmt: skip
    done = subprocess.run(
        call, cwd=work, env=kept | own, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    output = done.stdout + done.stderr
    found = re.search(r"^codes (.*)$", done.stdout, re.MULTILINE)
    assert found is not None, output
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    for line in trace.read_text(errors="replace").splitlines() if trace.exists() else []:
        if (call_of := _CALL.search(line)) is not None:
            writes = re.search(r"O_(WRONLY|RDWR|CREAT)", call_of[2]) is not None
            name = os.fsdecode(call_of[1].encode().decode("unicode_escape").encode("latin-1"))
            seen.append(["write" if writes else "read", os.path.realpath(os.path.join(work, name))])
        elif (address := _CONNECTED.search(line)) is not None:
            seen.append(["connect", address[1]])

    def paths(kind: str) -> frozenset[Path]:
        return frozenset(Path(path) for each, path in seen if each == kind)

    addresses = frozenset(address for kind, address in seen if kind == "connect")
    return Touched(paths("read"), paths("write"), addresses, output, json.loads(found[1]))
