"""Makes a tiny random model of each decoder-only family and what the reference frameworks compute.

  python make.py [FAMILY ...]   (torch 2.15, transformers 5.23, peft 0.21, gguf 0.19; seed 7)

FAMILY/config.json, model.safetensors   BF16; the reference computes in float32
FAMILY/tokenizer.json    64 tokens, the same for all
FAMILY/model.gguf        the same values, where GGUF has the family: names by gguf's own table, rows
                         and offsets as llama.cpp's converter puts them
FAMILY/lora/             r = 2, every Linear (PEFT's "all-linear")
FAMILY/golden.safetensors
  tokens I64 [T]; logits, lora F32 [T, V]; greedy I64: what follows tokens[:GREEDY_PROMPT]
  input_ids, labels I64 [2, 12]; loss F32 [1]; grad.<name>: of the adapter's matrices
"""
import json
import os
import shutil
import string
import sys

import gguf
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 64
TOKENS = ["\u0120", *string.ascii_letters, *string.digits, "ab"]  # byte-level BPE
LENGTH = 20
GREEDY_PROMPT = 5
GREEDY_TOKENS = 14
WINDOW = 6  # shorter than the sequences

SIZES = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             pad_token_id=None, bos_token_id=1, eos_token_id=2)
SQUARE = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
FAMILIES = {
    "mistral": ("MistralConfig", dict(SIZES, sliding_window=WINDOW, tie_word_embeddings=False)),
    "qwen2": ("Qwen2Config", dict(SIZES, use_sliding_window=True, sliding_window=WINDOW,
                                  max_window_layers=1, tie_word_embeddings=True)),
    # Without windows: GGUF files cannot say them.
    "qwen2_full": ("Qwen2Config", dict(SIZES, tie_word_embeddings=True)),
    "qwen3": ("Qwen3Config", dict(SIZES, head_dim=16, tie_word_embeddings=True)),
    "gemma3": ("Gemma3TextConfig", dict(
        SIZES, hidden_size=16, intermediate_size=24, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW)),
    "gemma3_scalar": ("Gemma3TextConfig", dict(
        SIZES, hidden_size=16, intermediate_size=24, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, query_pre_attn_scalar=20, sliding_window=WINDOW,
        layer_types=["full_attention", "sliding_attention"])),
    "phi3": ("Phi3Config", dict(SIZES, sliding_window=WINDOW, tie_word_embeddings=False,
                                partial_rotary_factor=0.75)),
    "gpt2": ("GPT2Config", dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64,
                                bos_token_id=1, eos_token_id=2)),
    "gpt_neox": ("GPTNeoXConfig", dict(SQUARE, rotary_pct=0.5, tie_word_embeddings=False)),
    "gpt_neox_serial": ("GPTNeoXConfig", dict(
        SQUARE, hidden_size=16, num_attention_heads=2, intermediate_size=24, rotary_pct=0.25,
        use_parallel_residual=False, tie_word_embeddings=False)),
    "opt": ("OPTConfig", dict(vocab_size=VOCAB, hidden_size=32, ffn_dim=48, num_hidden_layers=2,
                              num_attention_heads=4, max_position_embeddings=64,
                              word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1,
                              eos_token_id=2)),
    "opt_post_norm": ("OPTConfig", dict(
        vocab_size=VOCAB, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, word_embed_proj_dim=8, do_layer_norm_before=False,
        pad_token_id=0, bos_token_id=1, eos_token_id=2)),
    # Three heads: the slopes of a number that is no power of two.
    "bloom": ("BloomConfig", dict(vocab_size=VOCAB, hidden_size=24, n_layer=2, n_head=3,
                                  seq_length=64, bos_token_id=1, eos_token_id=2)),
}


def randomize(model, norm_mean):
    """Norms near their neutral value, biases and weights away from 0."""
    for name, parameter in model.named_parameters():
        is_norm = "norm" in name.lower() or ".ln_" in name
        if is_norm and name.endswith("weight"):
            parameter.data.normal_(norm_mean, 0.2)
        else:
            parameter.data.normal_(0.0, 0.25)


def interleave(rows, heads):
    """llama.cpp's converter: (half, pair) of a head becomes (pair, half)."""
    head_dim = rows.shape[0] // heads
    return rows.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def part_heads(rows, heads):
    """llama.cpp's converter: (head, q/k/v) becomes (q/k/v, head)."""
    head_dim = rows.shape[0] // heads // 3
    return rows.reshape(heads, 3, head_dim, -1).swapaxes(0, 1).reshape(rows.shape)


def gguf_values(name, architecture, config, tensor):
    values = tensor.float().numpy()
    if architecture in ("bloom", "gptneox") and ".query_key_value." in name:
        return part_heads(values, config.num_attention_heads)
    if architecture == "gpt2" and ".c_" in name and name.endswith(".weight"):
        return values.T
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return values + 1
    return values


def write_header(writer, architecture, config):
    hidden = config.hidden_size
    heads = config.num_attention_heads
    layers = config.num_hidden_layers
    inner = {"bloom": 4 * hidden, "gpt2": 4 * hidden}.get(architecture)
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner or config.intermediate_size)
    writer.add_head_count(heads)
    if architecture in ("bloom", "gpt2", "gptneox"):
        if architecture == "bloom":
            writer.add_head_count_kv(heads)
        epsilon = getattr(config, "layer_norm_eps", None) or config.layer_norm_epsilon
        writer.add_layer_norm_eps(epsilon)
    else:
        head_dim = getattr(config, "head_dim", None) or hidden // heads
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        theta = config.rope_parameters.get("full_attention", config.rope_parameters)["rope_theta"]
        writer.add_rope_freq_base(theta)
    if architecture == "gptneox":
        writer.add_rope_dimension_count(int(hidden // heads * config.rope_parameters["partial_rotary_factor"]))
        writer.add_parallel_residual(config.use_parallel_residual)
    if architecture == "phi3":
        writer.add_rope_dimension_count(int(hidden // heads * config.rope_parameters["partial_rotary_factor"]))
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * VOCAB)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write_gguf(path, architecture, model, config):
    number = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    write_header(writer, architecture, config)
    tied = config.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if tied and name in ("lm_head.weight", "embed_out.weight"):
            continue
        # The converter drops BLOOM's first part.
        known = name.removeprefix("transformer.") if architecture == "bloom" else name
        gguf_name = names.get_name(known, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None, name
        values = gguf_values(name, architecture, config, tensor)
        if values.ndim == 1:
            writer.add_tensor(gguf_name, values.astype("float32"))
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(gguf_name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


GGUF = {"qwen2_full": "qwen2", "qwen3": "qwen3", "gemma3": "gemma3", "phi3": "phi3", "gpt2": "gpt2",
        "gpt_neox": "gptneox", "gpt_neox_serial": "gptneox", "bloom": "bloom"}


def tune(model, path, golden, tokens):
    options = dict(fan_in_fan_out=True) if "gpt2" in path else {}
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4,
                                             lora_dropout=0.0, target_modules="all-linear", **options))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, 0.2)
    tuned.save_pretrained(os.path.join(path, "lora"))
    os.remove(os.path.join(path, "lora", "README.md"))
    config_path = os.path.join(path, "lora", "adapter_config.json")
    config = json.load(open(config_path))
    config["base_model_name_or_path"] = None
    config["target_modules"].sort()
    json.dump(config, open(config_path, "w"), indent=1, sort_keys=True)
    with torch.no_grad():
        golden["lora"] = tuned(tokens[None]).logits[0].clone()
    input_ids = torch.randint(0, VOCAB, (2, 12))
    labels = input_ids.clone()
    labels[0, :7] = -100
    labels[1, :4] = -100
    loss = tuned(input_ids=input_ids, labels=labels).loss
    loss.backward()
    golden.update(input_ids=input_ids, labels=labels, loss=loss.detach().reshape(1))
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            golden["grad." + name.replace(".default.", ".")] = parameter.grad.clone()


def make(family):
    config_class, options = FAMILIES[family]
    config = getattr(transformers, config_class)(**options)
    path = os.path.join(HERE, family)
    shutil.rmtree(path, ignore_errors=True)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, 0.0 if "gemma" in family else 1.0)
    model.to(torch.bfloat16).save_pretrained(path)
    generation = os.path.join(path, "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(TOKENS)}, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(os.path.join(path, "tokenizer.json"))
    if family in GGUF:
        write_gguf(os.path.join(path, "model.gguf"), GGUF[family], model, model.config)
    tokens = torch.randint(0, VOCAB, (LENGTH,))
    golden = {"tokens": tokens}
    with torch.no_grad():
        golden["logits"] = model(tokens[None]).logits[0].clone()
        text = tokens[:GREEDY_PROMPT]
        for _ in range(GREEDY_TOKENS):
            text = torch.cat([text, model(text[None]).logits[0, -1].argmax().reshape(1)])
        golden["greedy"] = text[GREEDY_PROMPT:].clone()
    tune(model, path, golden, tokens)
    save_file(golden, os.path.join(path, "golden.safetensors"))
    sizes = {name: os.path.getsize(os.path.join(path, name)) for name in os.listdir(path)}
    print(family, golden["greedy"].tolist(), sizes)


for name in sys.argv[1:] or FAMILIES:
    make(name)
