"""Rows of code for code_tuning.sh, and its verdict.

  python code_tuning.py rows FOLDER ROWS HELD_OUT   train.jsonl and prompts/NUMBER.txt
  python code_tuning.py report FOLDER               from run/metrics.jsonl, base/ and adapter/

A row is a short top-level function of Python's standard library that has a docstring: the instruction is the
docstring's first line, the input its signature, the output its source without docstring and comments, as ast.unparse
writes it. The held-out functions are of modules that give no training row. The same Python gives the same rows.
"""
import ast
import json
import pathlib
import random
import re
import sys
import sysconfig

MOST_LINES = 25
LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo"}  # folders


def make_row(function):
    """None for a function without a docstring, a body, or the wanted length."""
    docstring = ast.get_docstring(function)
    if not docstring or len(function.body) < 2:
        return None
    function.body = function.body[1:]
    function.decorator_list = []
    source = ast.unparse(function)
    if source.count("\n") >= MOST_LINES:
        return None
    return {"instruction": f"Write a Python function. {docstring.splitlines()[0]}", "input": source.splitlines()[0],
            "output": source}


def rows_of_modules():
    """Module -> its rows, no row twice."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    found, seen = {}, set()
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if LEFT_OUT & set(name.parts):
            continue
        try:
            functions = [node for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef)]
        except SyntaxError:
            continue
        for row in filter(None, map(make_row, functions)):
            if row["output"] not in seen:
                seen.add(row["output"])
                found.setdefault(str(name), []).append(row)
    return found


def write_rows(folder, count, held_out):
    modules = rows_of_modules()
    names = sorted(modules)
    draw = random.Random(1)
    draw.shuffle(names)
    held = []
    while len(held) < held_out:
        held += modules[names.pop()]
    train = [row for name in names for row in modules[name]]
    if len(train) < count:
        sys.exit(f"Python {sys.version.split()[0]} gives {len(train)} rows, wanted {count}")
    draw.shuffle(train)
    with open(folder / "train.jsonl", "w", encoding="utf-8") as out:
        for row in train[:count]:
            out.write(json.dumps(row) + "\n")
    (folder / "prompts").mkdir()
    for number, row in enumerate(held[:held_out]):  # as `quarry finetune` joins them
        (folder / "prompts" / f"{number:03}.txt").write_text(f"{row['instruction']}\n\n{row['input']}", encoding="utf-8")
    print(f"Python {sys.version.split()[0]}: {len(modules)} modules, {count} functions to learn, {held_out} held out")


def is_valid(text):
    """What stands in the first Markdown fence, or all of a text without one, is Python with a function."""
    fence = re.search(r"```\w*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    try:
        tree = ast.parse(fence.group(1) if fence else text)
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) for node in ast.walk(tree))


def report(folder):
    with open(folder / "run" / "metrics.jsonl", encoding="utf-8") as file:
        losses = [json.loads(line)["loss"] for line in file if '"train"' in line]
    few = max(1, len(losses) // 5)
    first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
    print(f"{len(losses)} steps: loss {first:.4f} -> {last:.4f} (means of {few})")
    valid = {}
    for name in ("base", "adapter"):
        texts = [path.read_text(encoding="utf-8") for path in sorted((folder / name).iterdir())]
        valid[name] = sum(map(is_valid, texts))
        print(f"{name:7} {valid[name]} of {len(texts)} texts are valid Python with a function")
    return last < first and valid["adapter"] > valid["base"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["rows"] and len(sys.argv) == 5:
        write_rows(pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["report"] and len(sys.argv) == 3:
        sys.exit(0 if report(pathlib.Path(sys.argv[2])) else 1)
    else:
        sys.exit(__doc__)
