# Small sentencepiece models with a precompiled_charsmap, which tests/golden/tokenizers has none of.
# sentencepiece 0.2.3. Run as: python make.py
import io
import os
import tempfile

import sentencepiece

# Code points in hexadecimal: from, to.
RULES = "FF21\t41\n41 301\tC1\nFB01\t66 69\n2026\t2E 2E 2E\n42\t62\n3000\t20\n"
WORDS = "the keeper of a lighthouse wrote down weather wind and ships that passed by every day in his book".split()


def texts():
    for i in range(400):
        yield " ".join(WORDS[(i * k * k + 3 * k) % len(WORDS)] for k in range(1, 9)) + f", {i}. A B fi"


def main():
    assert sentencepiece.__version__ == "0.2.3"
    here = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the model keeps the path of its rules
        with open("rules.tsv", "w") as file:
            file.write(RULES)
        for kind in ("unigram", "bpe"):
            out = io.BytesIO()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=texts(), model_writer=out, vocab_size=120, hard_vocab_limit=False, model_type=kind,
                character_coverage=1.0, num_threads=1, minloglevel=2, normalization_rule_tsv="rules.tsv",
                user_defined_symbols=["<tool>"])
            with open(os.path.join(here, f"charsmap_{kind}.model"), "wb") as file:
                file.write(out.getvalue())


if __name__ == "__main__":
    main()
