"""Token ids of our tokenizers against PyPI tokenizers and sentencepiece.

  python tests/acceptance/tokenizer_parity.py --tool build/release/tests/data/text/tokenize_lines

Texts: --count random Unicode strings (seeded) and every SQuAD paragraph of ../shared/data/squad11.
Tokenizers: all-MiniLM-L6-v2 (tokenizer.json and vocab.txt), SmolLM2 (from its GGUF; the peer's
tokenizer.json is rebuilt from the same GGUF with the pre-tokenizer that SmolLM publishes), and the
small ones of tests/golden/tokenizers. Ends with 1 when any text differs.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import tokenizers

HERE = pathlib.Path(__file__).resolve()
ROOT = HERE.parents[2]
GOLDEN = ROOT / "tests/golden/tokenizers"
sys.path.insert(0, str(GOLDEN))
from random_texts import random_texts  # noqa: E402


def squad_texts():
    texts = []
    for path in sorted((ROOT.parent / "shared/data/squad11").glob("*.passages*.jsonl")):
        for line in path.open(encoding="utf-8"):
            record = json.loads(line)
            texts.append(record.get("text") or record.get("passage") or record["context"])
    return texts


def ours(tool, tokenizer, mode, texts):
    data = "\0".join(texts).encode() + b"\0"
    done = subprocess.run([tool, str(tokenizer), mode], input=data, capture_output=True, check=True)
    return [[int(i) for i in line.split()] for line in done.stdout.decode().split("\n")[:-1]], done.stderr.decode().strip()


def theirs(tokenizer, mode, texts):
    tokenizer.encode_special_tokens = mode != "parse"
    batch = tokenizer.encode_batch_fast(texts, add_special_tokens=mode == "add")
    return [e.ids for e in batch]


def compare(name, wanted, got, texts, speed):
    assert len(wanted) == len(got) == len(texts), (name, len(wanted), len(got), len(texts))
    wrong = [i for i in range(len(texts)) if wanted[i] != got[i]]
    print(f"{name}: {len(texts) - len(wrong)} of {len(texts)} equal ({speed})")
    for i in wrong[:3]:
        print("   text", ascii(texts[i])[:300])
        at = next((k for k, (a, b) in enumerate(zip(wanted[i], got[i])) if a != b), -1)
        print(f"   first difference at {at}: peer {wanted[i][max(at - 2, 0):at + 5]} ours {got[i][max(at - 2, 0):at + 5]}")
    return len(wrong)


def gguf_tokenizer(path):
    """The tokenizer of a GGUF as the peer's object and as the fields of GgufTokenizerData."""
    from gguf import GGUFReader
    fields = GGUFReader(str(path)).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    data = {"model": get("model"), "pre": get("pre"), "tokens": get("tokens"), "merges": get("merges"),
            "token_types": get("token_type"), "bos_id": get("bos_token_id"), "eos_id": get("eos_token_id")}
    assert data["pre"] == "smollm"
    peer = tokenizers.Tokenizer(tokenizers.models.BPE(
        vocab={t: i for i, t in enumerate(data["tokens"])},
        merges=[tuple(m.split(" ")) for m in data["merges"]]))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    peer.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=False)
                             for t, kind in zip(data["tokens"], data["token_types"]) if kind == 3])
    return peer, data


def main():
    home = pathlib.Path(os.environ.get("QUARRY_HOME", pathlib.Path.home() / ".local/share/quarry"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--tool", required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--only", default="", help="part of a tokenizer's name")
    options = parser.parse_args()
    squad = squad_texts()
    print(f"tokenizers {tokenizers.__version__}; {options.count} random texts, seed {options.seed}; "
          f"{len(squad)} SQuAD paragraphs")
    wrong = 0

    def check(name, peer, tokenizer, specials, modes=("none", "add", "parse")):
        if options.only not in name:
            return 0
        texts = random_texts(options.count, options.seed, specials)
        bad = 0
        for kind, batch in (("random", texts), ("SQuAD", squad)):
            for mode in modes if kind == "random" else modes[:1]:
                got, speed = ours(options.tool, tokenizer, mode, batch)
                bad += compare(f"{name}, {kind}, {mode}", peer(mode, batch), got, batch, speed)
        return bad

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        minilm = home / "models/all-minilm-l6-v2"
        peer = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
        peer.no_truncation()
        peer.no_padding()
        bert_specials = ["[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]"]
        run_peer = lambda mode, batch: theirs(peer, mode, batch)
        wrong += check("MiniLM tokenizer.json", run_peer, minilm, bert_specials)
        for file in ("vocab.txt", "tokenizer_config.json"):
            shutil.copy(minilm / file, scratch / file)
        wrong += check("MiniLM vocab.txt", run_peer, scratch, bert_specials)
        gguf = next((home / "models/smollm2-135m-instruct").glob("*.gguf"))
        smollm, data = gguf_tokenizer(gguf)
        (scratch / "smollm.json").write_text(json.dumps(data))
        folder = scratch / "smollm"
        folder.mkdir()
        smollm.save(str(folder / "tokenizer.json"))
        specials = [t for t, kind in zip(data["tokens"], data["token_types"]) if kind == 3]
        run_smollm = lambda mode, batch: theirs(smollm, mode, batch)
        wrong += check("SmolLM2 GGUF", run_smollm, scratch / "smollm.json", specials, ("none", "parse"))
        wrong += check("SmolLM2 tokenizer.json", run_smollm, folder, specials, ("none", "parse"))
        for path in sorted(GOLDEN.glob("*/tokenizer.json")):
            small = tokenizers.Tokenizer.from_file(str(path))
            wrong += check(path.parent.name, lambda mode, batch, t=small: theirs(t, mode, batch), path.parent,
                           ["<|begin_of_text|>", "<|im_end|>", "<tool>", "</s>"])
        for path in sorted(GOLDEN.glob("*/tokenizer.model")):
            import sentencepiece
            small = sentencepiece.SentencePieceProcessor(model_file=str(path))
            wrong += check(path.parent.name, lambda mode, batch, t=small: t.encode(batch), path.parent, ["<s>"], ("none",))
    print("all equal" if wrong == 0 else f"{wrong} texts differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
