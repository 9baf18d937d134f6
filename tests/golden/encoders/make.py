"""Makes tiny random encoders of the BERT family, bare and with heads, and what transformers computes with them.

  python make.py [NAME ...]      (torch 2.15, transformers 5.23, tokenizers 0.23, peft 0.21; seed 11, of dpr_question 12)

NAME/config.json, model.safetensors   BF16; the reference computes in float32
NAME/tokenizer.json, tokenizer_config.json   WordPiece (BERT, DPR), byte-level BPE (RoBERTa), Unigram (XLM-RoBERTa);
                                             at most 24 tokens
NAME/modules.json, 1_Pooling/                where a bare encoder pools
NAME/lora/, lora.safetensors   a PEFT adapter on every Linear; its vectors, vector_gradients (drawn at random) and the
                               gradient of sum(vector_gradients * vectors) of each A and B, in float64
NAME/golden.json
  inputs: [text] or [text, text], cut as the tokenizer cuts them; ids, types: of each
  vectors: of bare encoders, of length 1 but for DPR's
  logits: of heads, [labels]; [tokens, labels] of token classification; [tokens, 2] (start, end) of question answering.
          Computed in one padded batch
  spans: of token classification, [start, end) in characters of each token (these texts are ASCII)
  answers: of question answering, the best span of at most 30 tokens: [start, end) of the context, score
  ranking: of models with one label, query, passages, scores: the logit of each pair
  long: question, context, overlap: the same over the windows that the tokenizer cuts; no_answer: the least of the first token
"""
import json
import os
import shutil
import string
import sys

import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_TOKENS = 24
WORDS = ["the", "moon", "sea", "river", "walk", "first", "what", "who", "two"]
TEXTS = ["the moon", "", "Two people walk on the moon for the first time in 1969.", "sea",
         "rivers run to the sea, and the sea is not full", "the river " * 30]
PAIRS = [["what?", "the moon"], ["who walked on the moon", "Two people walk on the moon, first in 1969."],
         ["sea", ""], ["the first river " * 9, "the sea"], ["a b", "two rivers walk to the sea " * 8],
         ["moon river " * 11, "first sea " * 12], ["what is not full?", "the sea is not full"],
         ["two", "first the moon, then the sea, then the river, then a walk of two"]]

SIZES = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
LABELS = {"three": ["no", "maybe", "yes"], "one": ["score"], "tags": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]}
# name: (class, labels, pooling of a bare encoder, further configuration)
CASES = {
    "roberta": ("RobertaModel", None, "mean", {}),
    "xlm_roberta": ("XLMRobertaModel", None, "cls", {}),
    "dpr_question": ("DPRQuestionEncoder", None, None, {}),
    "dpr_context": ("DPRContextEncoder", None, None, {}),
    "dpr_projected": ("DPRContextEncoder", None, None, {"projection_dim": 12}),
    "bert_sequence": ("BertForSequenceClassification", "three", None, {}),
    "bert_rerank": ("BertForSequenceClassification", "one", None, {}),
    "roberta_sequence": ("RobertaForSequenceClassification", "three", None, {}),
    "xlm_roberta_rerank": ("XLMRobertaForSequenceClassification", "one", None, {}),
    "bert_tokens": ("BertForTokenClassification", "tags", None, {}),
    "xlm_roberta_tokens": ("XLMRobertaForTokenClassification", "tags", None, {}),
    "bert_questions": ("BertForQuestionAnswering", None, None, {}),
    "roberta_questions": ("RobertaForQuestionAnswering", None, None, {}),
}
WITH_ADAPTER = ["roberta", "dpr_projected"]
LETTERS = [*string.ascii_lowercase, *string.digits]


def word_piece():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *LETTERS, *("##" + c for c in LETTERS), "##s",
             ".", ",", "?"]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])])
    names = dict(pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    return tokenizer, names, ["input_ids", "token_type_ids", "attention_mask"]


ROBERTA_NAMES = dict(bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>",
                     unk_token="<unk>", mask_token="<mask>")


def byte_level():
    vocab = ["<s>", "<pad>", "</s>", "<unk>", "\u0120", *LETTERS, *string.ascii_uppercase, ".", ",", "?", "th", "the",
             "\u0120the", "\u0120m", "oo", "oon", "\u0120moon", "<mask>"]
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("\u0120", "m"), ("o", "o"), ("oo", "n"), ("\u0120m", "oon")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocab)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer, ROBERTA_NAMES, ["input_ids", "attention_mask"]


def unigram():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [("\u2581" + word, -3.0) for word in WORDS] + [("s", -2.5)]
    pieces += [(letter, -4.0) for letter in [*LETTERS, "T", ".", ","] if letter != "s"] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A", "</s>"], pair=["<s>", "$A", "</s>", "</s>", "$B", "</s>"],
        special_tokens=[("<s>", 0), ("</s>", 2)])
    return tokenizer, ROBERTA_NAMES, ["input_ids", "attention_mask"]


def make_tokenizer(name):
    tokenizer, names, inputs = (byte_level() if name.startswith("roberta") else
                                unigram() if name.startswith("xlm") else word_piece())
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_TOKENS,
                                   model_input_names=inputs, **names)


def randomize(model):
    """Norms near their neutral value, biases and weights away from 0."""
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name and name.endswith("weight"):
            parameter.data.normal_(1.0, 0.2)
        else:
            parameter.data.normal_(0.0, 0.35)


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)


def write_model(name, path, tokenizer):
    class_name, labels, pooling, options = CASES[name]
    model_class = getattr(transformers, class_name)
    options = dict(SIZES, vocab_size=len(tokenizer), **options)
    if "roberta" in name:
        options.update(max_position_embeddings=MAX_TOKENS + 6, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
                       eos_token_id=2, layer_norm_eps=1e-5)
    else:
        options.update(max_position_embeddings=MAX_TOKENS + (0 if "dpr" in name else 4))
    if labels:
        options["id2label"] = dict(enumerate(LABELS[labels]))
        options["label2id"] = {label: i for i, label in enumerate(LABELS[labels])}
    model = model_class(model_class.config_class(**options))
    randomize(model)
    model.to(torch.bfloat16).save_pretrained(path)
    if pooling:
        os.makedirs(os.path.join(path, "1_Pooling"))
        write_json(os.path.join(path, "1_Pooling", "config.json"),
                   {"word_embedding_dimension": 16, "pooling_mode_cls_token": pooling == "cls",
                    "pooling_mode_mean_tokens": pooling == "mean"})
        parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
        write_json(os.path.join(path, "modules.json"),
                   [{"idx": i, "name": str(i), "path": folder, "type": "sentence_transformers.models." + kind}
                    for i, (kind, folder) in enumerate(parts)])
    return model_class.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def encode(tokenizer, inputs, only_second):
    columns = [list(column) for column in zip(*inputs)]
    truncation = "only_second" if only_second else True
    return tokenizer(*columns, truncation=truncation, padding=True, return_tensors="pt")


def vectors_of(name, outputs, mask):
    if "dpr" in name:
        return outputs.pooler_output
    tokens = outputs.last_hidden_state
    if CASES[name][2] == "cls":
        pooled = tokens[:, 0]
    else:
        pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1)[:, None]
    return torch.nn.functional.normalize(pooled, dim=1)


def tune(name, model, path, tokenizer):
    tuned = get_peft_model(model.double(), LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=2, lora_alpha=4,
                                                      target_modules="all-linear")).eval()
    for parameter_name, parameter in tuned.named_parameters():
        if "lora_" in parameter_name:
            parameter.data.normal_(0.0, 0.2)
    tuned.float().save_pretrained(os.path.join(path, "lora"))
    os.remove(os.path.join(path, "lora", "README.md"))
    config_path = os.path.join(path, "lora", "adapter_config.json")
    saved = json.load(open(config_path))
    saved["base_model_name_or_path"] = name
    saved["target_modules"].sort()
    write_json(config_path, saved)
    tuned.double()
    batch = encode(tokenizer, [[text] for text in TEXTS], False)
    vectors = vectors_of(name, tuned(**batch), batch["attention_mask"])
    vector_gradients = torch.randn(vectors.shape).double()
    (vectors * vector_gradients).sum().backward()
    golden = {"vectors": vectors.detach().float(), "vector_gradients": vector_gradients.float()}
    for parameter_name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            golden[parameter_name.replace(".default.", ".")] = gradient.float().contiguous()
    save_file(golden, os.path.join(path, "lora.safetensors"))


def rounded(rows):
    return [rounded(row) if isinstance(row, list) else round(row, 7) for row in rows]


def best_answer(start, end, sequence_ids, offsets):
    best = None
    context = [t for t, which in enumerate(sequence_ids) if which == 1]
    for first in context:
        for last in (t for t in context if first <= t < first + 30):
            score = (start[first] + end[last]).item()
            if best is None or score > best[2]:
                best = [offsets[first][0].item(), offsets[last][1].item(), score]
    return best


def answer_long(model, tokenizer):
    question, context, overlap = "what?", "the sea and the moon, first river then two walks. " * 3, 4
    windows = tokenizer(question, context, truncation="only_second", stride=overlap, return_overflowing_tokens=True,
                        return_offsets_mapping=True, padding=True, return_tensors="pt")
    offsets = windows.pop("offset_mapping")
    windows.pop("overflow_to_sample_mapping")
    with torch.no_grad():
        outputs = model(**windows)
    answers = [best_answer(outputs.start_logits[w], outputs.end_logits[w], windows.sequence_ids(w), offsets[w])
               for w in range(len(offsets))]
    assert len(answers) > 2
    return {"question": question, "context": context, "overlap": overlap, "answer": max(answers, key=lambda a: a[2]),
            "no_answer": (outputs.start_logits[:, 0] + outputs.end_logits[:, 0]).min().item()}


RANKED = ["the moon", "two people walk on the moon", "the sea is not full", "a river runs to the sea",
          "first what, then who, then the moon in 1969 " * 2, "s", "1969", "people walk"]


def rank(model, tokenizer, query):
    batch = encode(tokenizer, [[query, passage] for passage in RANKED], False)
    with torch.no_grad():
        scores = model(**batch).logits[:, 0].tolist()
    return {"query": query, "passages": RANKED, "scores": rounded(scores)}


def make(name):
    path = os.path.join(HERE, name)
    shutil.rmtree(path, ignore_errors=True)
    torch.manual_seed(12 if name == "dpr_question" else 11)
    tokenizer = make_tokenizer(name)
    model = write_model(name, path, tokenizer)
    tokenizer.save_pretrained(path)
    is_bare = not CASES[name][0].split("For")[1:]
    only_second = "questions" in name
    inputs = [[text] for text in TEXTS] if not only_second else []
    if not is_bare and "tokens" not in name:
        # Questions that leave their context a token.
        inputs = inputs * 0 + [pair for pair in PAIRS if not only_second or len(pair[0]) < 25]
    golden = {"inputs": inputs, "ids": [], "types": []}
    for row in inputs:
        single = encode(tokenizer, [row], only_second)
        golden["ids"].append(single["input_ids"][0].tolist())
        golden["types"].append(single.get("token_type_ids", torch.zeros_like(single["input_ids"]))[0].tolist())
    batch = encode(tokenizer, inputs, only_second)
    with torch.no_grad():
        outputs = model(**batch)
    if is_bare:
        golden["vectors"] = rounded(vectors_of(name, outputs, batch["attention_mask"]).tolist())
    elif "questions" in name or "tokens" in name:
        logits = (torch.stack([outputs.start_logits, outputs.end_logits], dim=2) if "questions" in name
                  else outputs.logits)
        golden["logits"] = [rounded(row[mask.bool()].tolist()) for row, mask in zip(logits, batch["attention_mask"])]
    else:
        golden["logits"] = rounded(outputs.logits.tolist())
    columns = [list(column) for column in zip(*inputs)]
    fitted = tokenizer(*columns, truncation="only_second" if only_second else True, padding=True,
                       return_offsets_mapping=True, return_tensors="pt")
    if "rerank" in name:
        golden["ranking"] = rank(model, tokenizer, "who walked on the moon?")
    if "tokens" in name:
        golden["spans"] = [offsets[mask.bool()].tolist()
                           for offsets, mask in zip(fitted["offset_mapping"], batch["attention_mask"])]
    if "questions" in name:
        golden["answers"] = [best_answer(outputs.start_logits[i], outputs.end_logits[i], fitted.sequence_ids(i),
                                         fitted["offset_mapping"][i])
                             for i in range(len(inputs))]
        golden["long"] = answer_long(model, tokenizer)
    with open(os.path.join(path, "golden.json"), "w") as file:
        json.dump(golden, file)
    if name in WITH_ADAPTER:
        tune(name, model, path, tokenizer)
    print(name, sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(path) for f in fs), "bytes")


for name in sys.argv[1:] or CASES:
    make(name)
