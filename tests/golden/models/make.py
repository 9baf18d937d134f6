"""Makes the tiny models of this folder and what the reference frameworks compute with them.

  python make.py      (torch 2.15, transformers 5.23, peft 0.21, sentence-transformers 6.2, tokenizers)

llama/         F32, tied head, grouped-query attention, byte-level BPE tokenizer and chat template
llama_scaled/  BF16, own head, head_dim apart from hidden / heads, biases, llama3 rope scaling
*/lora_all     r = 4, every Linear          */lora_qv   r = 8, rsLoRA, q and v only
*/golden.safetensors   tokens I64 [T]; logits, lora_all, lora_qv F32 [T, V]
bert/          F32, WordPiece, sentence-transformers folder: mean pooling, max_seq_length 16
bert/golden.json   texts and their unit vectors
Weights are random, seed 7.
"""
import json
import os
import shutil

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers import models as st_models
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, BertTokenizerFast, LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
LINES = [
    "The quick brown fox jumps over the lazy dog.",
    "Answers come with sources that you can open and check.",
    "A passage is a piece of a document; it keeps its exact span.",
    "Rivers run to the sea, and the sea is not full.",
    "In 1969 two people walked on the moon for the first time.",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def fresh(name):
    path = os.path.join(HERE, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def randomize(model, std):
    """Norms near 1, biases and weights away from 0: nothing may be lost without being seen."""
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.data.normal_(1.0, 0.2)
        else:
            parameter.data.normal_(0.0, std)


def make_tokenizer(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=288,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.save(os.path.join(path, "tokenizer.json"))
    with open(os.path.join(path, "tokenizer_config.json"), "w") as file:
        json.dump({"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"},
                   "chat_template": CHAT_TEMPLATE}, file, indent=1)
    return tokenizer.get_vocab_size()


def adapter(base, path, **options):
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **options))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0.0, 0.2)
    model.save_pretrained(path)
    os.remove(os.path.join(path, "README.md"))
    config_path = os.path.join(path, "adapter_config.json")
    config = json.load(open(config_path))
    config["base_model_name_or_path"] = ""
    json.dump(config, open(config_path, "w"), indent=1)
    return model


def make_llama(name, config, dtype):
    path = fresh(name)
    config.vocab_size = make_tokenizer(path)
    torch.manual_seed(7)
    model = LlamaForCausalLM(config)
    randomize(model, 0.25)
    model.to(dtype).save_pretrained(path)
    # The reference computes in float32 with the values as they are stored. Loading anew also keeps
    # the rotary frequencies, which .to(dtype) rounds, in float32.
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokens = torch.randint(0, config.vocab_size, (24,))
    golden = {"tokens": tokens}
    with torch.no_grad():
        golden["logits"] = model(tokens[None]).logits[0].clone()
        every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        for label, options in {
            "lora_all": dict(r=4, lora_alpha=8, target_modules=every),
            "lora_qv": dict(r=8, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "v_proj"]),
        }.items():
            tuned = adapter(model, os.path.join(path, label), **options).eval()
            golden[label] = tuned(tokens[None]).logits[0].clone()
            model = tuned.unload()
    save_file(golden, os.path.join(path, "golden.safetensors"))


def make_bert():
    path = fresh("bert")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({w.strip(".,;").lower() for line in LINES for w in line.split()})
    vocab += words + [".", ",", ";", "##s", "##ing"] + list("abcdefghijklmnopqrstuvwxyz")
    vocab += ["##" + c for c in "abcdefghijklmnopqrstuvwxyz"]
    source = fresh("bert_source")
    with open(os.path.join(source, "vocab.txt"), "w") as file:
        file.write("\n".join(dict.fromkeys(vocab)) + "\n")
    torch.manual_seed(7)
    model = BertModel(BertConfig(
        vocab_size=len(dict.fromkeys(vocab)), hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=24))
    randomize(model, 0.25)
    model.save_pretrained(source)
    BertTokenizerFast(vocab=os.path.join(source, "vocab.txt")).save_pretrained(source)
    transformer = st_models.Transformer(source, max_seq_length=16)
    encoder = SentenceTransformer(modules=[
        transformer, st_models.Pooling(32, "mean"), st_models.Normalize()], device="cpu")
    encoder.save(path, create_model_card=False)
    shutil.copy(os.path.join(source, "vocab.txt"), path)
    shutil.rmtree(source)
    # Bare, as old checkpoints are; the pooler is never used.
    weights = load_file(os.path.join(path, "model.safetensors"))
    save_file({k: v for k, v in weights.items() if not k.startswith("pooler")},
              os.path.join(path, "model.safetensors"))
    texts = LINES + ["fox", "", "dogs running " * 20, "the sea"]
    vectors = encoder.encode(texts, batch_size=4).tolist()
    with open(os.path.join(path, "golden.json"), "w") as file:
        json.dump({"texts": texts, "vectors": [[round(x, 7) for x in v] for v in vectors]}, file)


make_llama("llama", LlamaConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    tie_word_embeddings=True, bos_token_id=1, eos_token_id=2), torch.float32)
make_llama("llama_scaled", LlamaConfig(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, head_dim=24,
    num_key_value_heads=1, max_position_embeddings=128, attention_bias=True, mlp_bias=True,
    rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0,
                     "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 32},
    tie_word_embeddings=False, bos_token_id=1, eos_token_id=[2, 0]), torch.bfloat16)
make_bert()
