"""Makes the small tokenizers of this folder and expected.json, the peer's ids for 72 texts each.

  python tests/golden/tokenizers/make.py      (tokenizers 0.23.3, sentencepiece 0.2.3; seed 7)

Trained on every eighth SQuAD training paragraph of ../shared/data/squad11. The patterns are those that the
families publish in their tokenizer.json. all-MiniLM-L6-v2 and SmolLM2 are compared on the models
themselves, when those are installed.
"""
import io
import json
import os
import pathlib
import shutil
import sys
import tempfile

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(ROOT / "tests/acceptance"))
from random_texts import random_texts  # noqa: E402

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
SPECIALS = ["<|begin_of_text|>", "<|im_end|>", "<tool>", "</s>"]


def corpus():
    texts = []
    for path in sorted((ROOT.parent / "shared/data/squad11").glob("train.passages*.jsonl")):
        for line in path.open(encoding="utf-8"):
            record = json.loads(line)
            texts.append(record.get("text") or record.get("passage") or record["context"])
    return texts[::8]


def train_bpe(texts, pre_tokenizer, normalizer=None, vocab_size=1200, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIALS[:2]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False),
                          AddedToken("Ünïword", single_word=True, normalized=True)])
    return tokenizer


def families(texts):
    split = lambda p: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated"), BYTES])
    yield "gpt2", train_bpe(texts, pre_tokenizers.ByteLevel(add_prefix_space=True))
    llama3 = train_bpe(texts, split(LLAMA3), ignore_merges=True)
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=[("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"))])])
    yield "llama3", llama3
    yield "qwen2", train_bpe(texts, split(QWEN2), normalizers.NFC())
    yield "smollm", train_bpe(texts, pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    # The shape of Llama 2's tokenizer.json: no pre-tokenizer marks words, bytes stand for the unknown.
    # Words are limited by a Split, for training on whole paragraphs is slow.
    llama2 = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    llama2.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama2.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    llama2.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1200, show_progress=False, limit_alphabet=100,
        special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]))
    config = json.loads(llama2.to_str())
    config["added_tokens"] = config["added_tokens"][:3]
    llama2 = Tokenizer.from_str(json.dumps(config))
    llama2.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    yield "llama2_json", llama2
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()])
    unigram.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("contiguous")])
    unigram.train_from_iterator(texts, trainers.UnigramTrainer(
        vocab_size=800, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>"))
    unigram.decoder = decoders.Metaspace()
    yield "unigram_json", unigram


def sentencepiece_model(texts, kind):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, vocab_size=1000, model_type=kind, byte_fallback=kind == "bpe",
        character_coverage=0.999, num_threads=1, minloglevel=2, normalization_rule_name="identity")
    return out.getvalue()


def main():
    assert tokenizers.__version__ == "0.23.3" and sentencepiece.__version__ == "0.2.3"
    texts = corpus()
    cases = {}
    inputs = random_texts(64, 7, SPECIALS) + [t[:120] for t in texts[:8]]

    def record(name, tokenizer, modes=("none", "add", "parse")):
        cases[name] = {"decoded": []}
        for mode in modes:
            tokenizer.encode_special_tokens = mode != "parse"
            cases[name][mode] = [tokenizer.encode(t, add_special_tokens=mode == "add").ids for t in inputs]
        cases[name]["decoded"] = [tokenizer.decode(ids) for ids in cases[name]["parse" if "parse" in modes else "none"]]

    for name, tokenizer in families(texts):
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        config = json.loads(tokenizer.to_str())
        (folder / "tokenizer.json").write_text(json.dumps(config, ensure_ascii=False, separators=(",", ":")) + "\n")
        record(name, Tokenizer.from_file(str(folder / "tokenizer.json")))
    for kind in ("bpe", "unigram"):
        folder = HERE / f"sentencepiece_{kind}"
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(texts, kind))
        processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        ids = [processor.encode(t) for t in inputs]
        cases[folder.name] = {"none": ids, "add": [[processor.bos_id()] + i for i in ids],
                              "pieces": [[processor.id_to_piece(i), processor.get_score(i),
                                          2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1]
                                         for i in range(len(processor))] if kind == "bpe" else []}
    home = pathlib.Path(os.environ.get("QUARRY_HOME", pathlib.Path.home() / ".local/share/quarry")) / "models"
    minilm = Tokenizer.from_file(str(home / "all-minilm-l6-v2/tokenizer.json"))
    minilm.no_truncation()
    minilm.no_padding()
    record("all-minilm-l6-v2", minilm)
    from tokenizer_parity import gguf_tokenizer
    smollm, _ = gguf_tokenizer(next((home / "smollm2-135m-instruct").glob("*.gguf")))
    smollm.decoder = decoders.ByteLevel()
    record("smollm2-135m-instruct", smollm, ("none", "parse"))
    (HERE / "expected.json").write_text(json.dumps({"inputs": inputs, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
