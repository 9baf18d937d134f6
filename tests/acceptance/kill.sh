#!/usr/bin/env bash
# kill -9 at random moments of the real program: runs `quarry index build`, `add` and `rm` over a
# folder of about 200 files, kills each at a random moment, and fails unless after every kill the next
# open works, `quarry index verify` passes, every document that a finished command acknowledged is
# found, and each document shows whole, in its version from before the command or in the one after.
# About ten minutes on two cores.
#   tests/acceptance/kill.sh build/release/quarry [KILLS] [SEED] [WORK]
set -euo pipefail

quarry=$(realpath "${1:?usage: kill.sh QUARRY [KILLS] [SEED] [WORK]}")
work=${4:-$(mktemp -d)}
mkdir -p "$work"

exec python3 - "$quarry" "${2:-50}" "${3:-1}" "$work" <<'PYTHON'
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

quarry, kills_wanted, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
work = pathlib.Path(sys.argv[4]).resolve()
corpus, index = work / "corpus", work / "index"
rng = random.Random(seed)
WORDS = """harbour pilot tide anchor lantern granite chapel ferry current sandbank captain winter compass
survey channel beacon quay mast rudder storm mooring crew signal cargo keel""".split()


def text_of(version):
    """8 sentences, each with the version: several passages, none of which can hide what it is of."""
    dice = random.Random(version)
    return "\n\n".join(" ".join(f"The ledger v{version} tells of {' '.join(dice.choices(WORDS, k=9))}."
                                for _ in range(4)) for _ in range(2)) + "\n"


class Corpus:
    """The files as they are on disk: path -> version."""

    def __init__(self):
        shutil.rmtree(corpus, ignore_errors=True)
        self.next_version, self.files = 1, {}

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(self.next_version))
        self.files[str(path)] = self.next_version
        self.next_version += 1

    def remove(self, path):
        pathlib.Path(path).unlink()
        del self.files[path]


def run(*words, status=(0,)):
    done = subprocess.run([quarry, *map(str, words)], capture_output=True, text=True, timeout=300)
    if done.returncode not in status:
        sys.exit(f"FAIL quarry {' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def run_and_kill(words, seconds):
    """Kills the command after `seconds`. Returns whether it was killed before it finished."""
    child = subprocess.Popen([quarry, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return child.returncode == -9
    if child.returncode != 0:
        sys.exit(f"FAIL quarry {' '.join(map(str, words))}: exit {child.returncode}\n{errors}")
    return False


def shown(mode):
    """What a search shows: document -> version. Fails on a document that is not whole."""
    done = run("search", index, "ledger", "--mode", mode, "--top-k", 1000, "--json", status=(0, 4))
    hits = json.loads(done.stdout)["data"]
    if len(hits) >= 1000:
        sys.exit("FAIL this test's corpus is too large for one search")
    passages = {}
    for hit in hits:
        passages.setdefault(hit["uri"], []).append(hit)
    versions = {}
    for document, parts in passages.items():
        found = {int(v) for part in parts for v in re.findall(r"ledger v(\d+)", part["quote"])}
        if len(found) != 1:
            sys.exit(f"FAIL {mode}: {document} shows versions {sorted(found)} at once")
        version = found.pop()
        text = text_of(version)
        covered = set()
        for part in parts:
            if text[part["start"]:part["end"]] != part["quote"]:
                sys.exit(f"FAIL {mode}: {document}: a span that is not its text")
            covered.update(range(part["start"], part["end"]))
        missing = [i for i, c in enumerate(text) if not c.isspace() and i not in covered]
        if missing:
            sys.exit(f"FAIL {mode}: {document} version {version} is half there: lacks {len(missing)} characters")
        versions[document] = version
    return versions


def check(acknowledged, wanted, what):
    """Every document is as acknowledged, or as the killed command wanted it. Returns what is there."""
    run("index", "info", index)
    run("index", "verify", index)
    there = shown("lexical")
    if shown("dense") != there:
        sys.exit(f"FAIL {what}: dense and lexical search show different documents")
    for document in acknowledged.keys() | wanted.keys() | there.keys():
        allowed = (acknowledged.get(document), wanted.get(document))
        if there.get(document) not in allowed:
            sys.exit(f"FAIL {what}: {document} shows version {there.get(document)}, "
                     f"acknowledged {allowed[0]}, written {allowed[1]}")
    return there


def start_over(files):
    shutil.rmtree(index, ignore_errors=True)
    for i in range(200):
        files.write(corpus / f"shelf{i % 8}" / f"book{i:03}.txt")


def change_some(files):
    for path in rng.sample(sorted(files.files), min(len(files.files), rng.randint(5, 60))):
        files.write(pathlib.Path(path))
    for path in rng.sample(sorted(files.files), min(len(files.files) // 4, rng.randint(0, 10))):
        files.remove(path)
    for _ in range(rng.randint(0, 10)):
        files.write(corpus / f"shelf{rng.randrange(8)}" / f"new{files.next_version:05}.txt")


def next_command(files, acknowledged):
    """Changes the files and returns the command, and what the index shows once it has finished."""
    kind = rng.choice(["first build", "build", "build", "add", "rm"]) if acknowledged else "first build"
    if kind == "add" and len(files.files) > 250:
        kind = "rm"
    if kind == "first build":
        files.__init__()
        start_over(files)
        return kind, {}, ["build", index, corpus, "--chunk-tokens", 64], dict(files.files)
    if kind == "build":
        change_some(files)
        return kind, acknowledged, ["build", index], dict(files.files)
    if kind == "add":
        new = [corpus / "added" / f"page{files.next_version + i:05}.txt" for i in range(rng.randint(2, 40))]
        for path in new:
            files.write(path)
        return kind, acknowledged, ["add", index, *new], acknowledged | {str(p): files.files[str(p)] for p in new}
    gone = rng.sample(sorted(acknowledged), min(len(acknowledged), rng.randint(1, 40)))
    return kind, acknowledged, ["rm", index, *gone], {d: v for d, v in acknowledged.items() if d not in gone}


files, acknowledged = Corpus(), {}
typical = {"first build": 8.0, "build": 3.0, "add": 2.0, "rm": 0.5}
kills, finished, never_made, partial = {}, 0, 0, 0
rounds = 0
while sum(kills.values()) < kills_wanted and rounds < 6 * kills_wanted:
    rounds += 1
    kind, acknowledged, words, wanted = next_command(files, acknowledged)
    moment = rng.uniform(0, 1.05 * typical[kind])
    started = time.monotonic()
    killed = run_and_kill(["index", *words], moment)
    seconds = time.monotonic() - started
    if killed:
        kills[kind] = kills.get(kind, 0) + 1
    else:
        finished += 1
        typical[kind] = seconds
    if killed and not (index / "quarry.db").exists():
        if acknowledged:
            sys.exit(f"FAIL {kind}: the index is gone")
        run("index", "info", index, status=(3,))
        never_made += 1
        there = {}
    else:
        there = check(acknowledged if killed else wanted, wanted, kind)
        partial += there not in (acknowledged, wanted)
    print(f"{rounds:3} {kind:11} {'killed' if killed else 'ended '} after {seconds:6.3f} s: "
          f"{len(there)} documents, {sum(there.get(d) == v for d, v in wanted.items())} of {len(wanted)} as written",
          flush=True)
    acknowledged = there
    if killed and rng.random() < 0.5:  # the same command again finishes the work
        if kind == "rm":
            words = words[:2] + [d for d in words[2:] if d in there]
        if len(words) > 2 or kind == "build":
            run("index", *words)
        acknowledged = check(wanted, wanted, kind + " again")
print(f"{sum(kills.values())} kills ({', '.join(f'{n} of {kind}' for kind, n in sorted(kills.items()))}), "
      f"{finished} commands that finished first, {never_made} kills before the index existed, "
      f"{partial} that left part of the command's work: every open, verify and search was right")
sys.exit(0 if sum(kills.values()) >= kills_wanted else 1)
PYTHON
