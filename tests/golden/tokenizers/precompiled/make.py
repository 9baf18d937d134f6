"""Makes tokenizer.json, a Unigram with a "Precompiled" normalizer as XLM-RoBERTa's, and what PyPI tokenizers does with it.

  python make.py      (sentencepiece 0.2.3, tokenizers 0.23.3)

The rules are a few of NFKC's kind, compiled by sentencepiece. expected.json: texts, normalized, ids.
"""
import io
import json
import os
import string
import tempfile

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HERE = os.path.dirname(os.path.abspath(__file__))
# A letter and an accent, a ligature, a circled digit, wide letters, blanks, a character that goes, two rules of which one
# begins the other, Hangul syllable parts.
RULES = [("a\u0301", "\u00e1"), ("e\u0301", "\u00e9"), ("\ufb01", "fi"), ("\u2460", "1"), ("\uff21", "A"), ("\u3000", " "),
         ("\u00a0", " "), ("\t", " "), ("\u00ad", ""), ("\u2126", "\u03c9"), ("x\u0302", "y"), ("x\u0302\u0301", "z"),
         ("\u1100\u1161", "\uac00"), ("\u0301", "'")]
TEXTS = ["", "moon", "a\u0301 e\u0301 \ufb01n", "\u2460\uff21\u3000b", "a\u00adb\tc\u00a0d", "\u2126", "x\u0302 x\u0302\u0301 x",
         "\u1100\u1161\u1100", "o\u0301", "a\u0301\u0301", "\u0301", "\U0001f468\u200d\U0001f469 a", "\r\n\ufb01", "\ufb01\u0301",
         "x\u0302\u0301\u0301 \u0915\u093f"]


def field(message, wanted):
    """The first length-delimited field of that number in a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            size = varint()
            if key >> 3 == wanted:
                return message[at:at + size]
            at += size
        elif key & 7 == 0:
            varint()
        else:
            at += 8 if key & 7 == 1 else 4


def charsmap():
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        for source, target in RULES:
            rules.write(" ".join(f"{ord(c):X}" for c in source) + "\t" + " ".join(f"{ord(c):X}" for c in target) + "\n")
        rules.flush()
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["the moon and the sea"] * 20), model_writer=out, vocab_size=16, minloglevel=2,
            hard_vocab_limit=False, normalization_rule_tsv=rules.name)
    return field(field(out.getvalue(), 3), 2)


pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("fi", -2.5), ("\u2581moon", -3.0)]
pieces += [(letter, -4.0) for letter in [*string.ascii_lowercase, "\u00e1", "\u00e9", "A", "1", "'"]]
tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
tokenizer.normalizer = normalizers.Precompiled(charsmap())
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
tokenizer.decoder = decoders.Metaspace()
tokenizer.post_processor = processors.TemplateProcessing(
    single=["<s>", "$A", "</s>"], pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
    special_tokens=[("<s>", 0), ("</s>", 2)])
tokenizer.save(os.path.join(HERE, "tokenizer.json"), pretty=False)
json.dump({"texts": TEXTS, "normalized": [tokenizer.normalizer.normalize_str(t) for t in TEXTS],
           "ids": [tokenizer.encode(t).ids for t in TEXTS]}, open(os.path.join(HERE, "expected.json"), "w"))
