"""Makes a tiny random model of each encoder-decoder family and what transformers and PEFT compute.

  python make.py [FAMILY ...]   (torch 2.15, transformers 5.23, peft 0.21; seed 7)

FAMILY/config.json, generation_config.json, model.safetensors   BF16; the reference computes in float64
FAMILY/tokenizer.json   64 tokens: Unigram that ends a text with </s> (T5), byte-level BPE that puts one between <s>
                        and </s> (BART)
FAMILY/lora/            r = 2, every Linear (PEFT's "all-linear")
FAMILY/golden.safetensors
  source, tokens I64 [S], [T]; logits, lora F32 [T, V]: of the decoder over tokens
  sources I64 [2, 9], labels I64 [2, 7]; loss F32 [1]; grad.<name>: of the adapter's matrices
FAMILY/golden.json
  texts: ids that the tokenizer gives, its own tokens included
  generate: num_beams, length_penalty, eos, max_new_tokens; tokens: what generate() adds to the start token
buckets.json: buckets [bidirectional] of the distances -140 .. 140 with 32 buckets up to 128
"""
import json
import os
import shutil
import string
import sys

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForSeq2SeqLM
from transformers.models.t5.modeling_t5 import T5Attention

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 64
TEXTS = ["", "abc", "Ab ab b9", " two  blanks ", "a\u00e9b"]

T5_SIZES = dict(vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=3,
                relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0)
FAMILIES = {
    "t5": ("T5Config", dict(T5_SIZES, feed_forward_proj="relu")),
    # As the models of the hub say that their head is their own.
    "t5_gated": ("T5Config", dict(T5_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "mt5": ("MT5Config", dict(T5_SIZES, feed_forward_proj="gated-gelu")),
    "bart": ("BartConfig", dict(
        vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=40, max_position_embeddings=64,
        scale_embedding=True, forced_eos_token_id=None)),
}


def randomize(model):
    """Norms near their neutral value, biases and weights away from 0; small queries where T5 does not scale scores."""
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data.normal_(1.0, 0.2)
        else:
            parameter.data.normal_(0.0, 0.08 if ".q." in name else 0.7 if "positions" in name else 0.18)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_(0.0, 0.5)


def write_model(family, path):
    config_class, options = FAMILIES[family]
    config = getattr(transformers, config_class)(**options)
    model = AutoModelForSeq2SeqLM.from_config(config)
    if family in ("t5_gated", "mt5"):
        model.lm_head.weight = torch.nn.Parameter(torch.empty(VOCAB, 32))
    randomize(model)
    if family == "bart":
        model.generation_config.forced_bos_token_id = 0
    model.to(torch.bfloat16).save_pretrained(path)
    if family == "t5_gated":
        config_path = os.path.join(path, "config.json")
        written = json.load(open(config_path))
        written.pop("scale_decoder_outputs")
        written["tie_word_embeddings"] = False
        json.dump(written, open(config_path, "w"), indent=2, sort_keys=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float64, attn_implementation="eager").eval()
    tied = torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    assert tied == (family in ("t5", "bart"))
    return model


def write_tokenizer(family, path):
    letters = [*string.ascii_letters[:47], "9"]
    if family == "bart":
        tokens = ["<s>", "<pad>", "</s>", "<unk>", "\u0120", *letters, "ab", "\u0120b"]
        tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                                         merges=[("a", "b"), ("\u0120", "b")]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
        tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    else:
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), ("ab", -2.5), ("\u2581b", -3.0)]
        pieces += [(letter, -4.0) for letter in letters]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(os.path.join(path, "tokenizer.json"))
    return [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]


def generate(model, source):
    """End tokens are ones that these random models really choose."""
    def run(**options):
        with torch.no_grad():
            text = model.generate(source[None], attention_mask=torch.ones_like(source)[None], do_sample=False,
                                  pad_token_id=1, use_cache=False, **options)
        return text[0, 1:].tolist()

    likely = sorted(set(run(max_new_tokens=16, eos_token_id=None)) - {0})
    cases = []
    for eos in [[1], likely[:1], likely[1:3]]:
        for num_beams in [1, 4]:
            for length_penalty in [1.0] if num_beams == 1 else [-1.0, 1.0, 2.0]:
                options = dict(num_beams=num_beams, max_new_tokens=16)
                beams = dict(length_penalty=length_penalty) if num_beams > 1 else {}
                tokens = run(eos_token_id=eos, **options, **beams)
                cases.append(dict(options, length_penalty=length_penalty, eos=eos, tokens=tokens))
    return cases


def tune(model, path, golden):
    # PEFT 0.21 knows this function by the name that it had before transformers 5.23.
    model._prepare_encoder_decoder_kwargs_for_generation = model._prepare_text_encoder_decoder_kwargs_for_generation
    tuned = get_peft_model(model, LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, lora_alpha=4, lora_dropout=0.0,
                                             target_modules="all-linear"))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, 0.12)
    tuned.float().save_pretrained(os.path.join(path, "lora"))
    tuned.double()
    os.remove(os.path.join(path, "lora", "README.md"))
    config_path = os.path.join(path, "lora", "adapter_config.json")
    config = json.load(open(config_path))
    config["base_model_name_or_path"] = None
    config["target_modules"].sort()
    json.dump(config, open(config_path, "w"), indent=1, sort_keys=True)
    with torch.no_grad():
        golden["lora"] = tuned(input_ids=golden["source"][None],
                               decoder_input_ids=golden["tokens"][None]).logits[0].clone()
    sources = torch.randint(3, VOCAB, (2, 9))
    labels = torch.randint(3, VOCAB, (2, 7))
    labels[1, 5:] = -100
    loss = tuned(input_ids=sources, labels=labels).loss
    loss.backward()
    golden.update(sources=sources, labels=labels, loss=loss.detach().reshape(1))
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            golden["grad." + name.replace(".default.", ".")] = parameter.grad.clone()


def make(family):
    path = os.path.join(HERE, family)
    shutil.rmtree(path, ignore_errors=True)
    torch.manual_seed(7)
    model = write_model(family, path)
    texts = write_tokenizer(family, path)
    golden = {"source": torch.randint(3, VOCAB, (26,)), "tokens": torch.randint(3, VOCAB, (20,))}
    golden["tokens"][0] = model.config.decoder_start_token_id
    with torch.no_grad():
        golden["logits"] = model(input_ids=golden["source"][None],
                                 decoder_input_ids=golden["tokens"][None]).logits[0].clone()
    cases = generate(model, golden["source"])
    json.dump({"texts": texts, "generate": cases}, open(os.path.join(path, "golden.json"), "w"))
    tune(model, path, golden)
    golden = {name: value.float() if value.is_floating_point() else value for name, value in golden.items()}
    save_file(golden, os.path.join(path, "golden.safetensors"))
    print(family, [case["tokens"] for case in cases[:2]],
          {name: os.path.getsize(os.path.join(path, name)) for name in os.listdir(path)})


def buckets(bidirectional):
    return T5Attention._relative_position_bucket(torch.arange(-140, 141), bidirectional, 32, 128).tolist()


for name in sys.argv[1:] or FAMILIES:
    make(name)
json.dump([buckets(False), buckets(True)], open(os.path.join(HERE, "buckets.json"), "w"))
