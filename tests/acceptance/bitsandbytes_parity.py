"""Holds our quantization against bitsandbytes and transformers.

  python bitsandbytes_parity.py QUARRY QUANT_TOOL MODEL_TOOL [MODEL]
      (bitsandbytes 0.50.2, transformers 5.23, torch 2.15, safetensors)

One million values are quantized by both, for every type and block size, and one million hard ones
(ties between codes, zeros, denormals): codes, absmax and double quantization have to be equal bit for
bit. Checkpoints that transformers saves with bitsandbytes are
loaded by Quarry: logits of exact mode within 1e-5 of the model with the weights decoded (relative
to the largest). Folders that `quarry model quantize` writes are loaded by transformers: decoded
weights equal bit for bit those of its own quantization. MODEL is a Hugging Face folder (default:
the tiny llama of ../golden/models). Prints one line a check and exits 1 when one fails.

bitsandbytes runs by its portable backend, whose rounding is that of its CUDA kernels. Its x86 library
differs in one place, the 8-bit codes of double quantization, which it looks up in a table of 65,536
entries: how many differ is printed.
"""
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np

load_library = ctypes.cdll.LoadLibrary


def refuse(path):
    if "libbitsandbytes" in str(path):
        raise RuntimeError("kept from loading")
    return load_library(path)


NATIVE = os.environ.get("BNB_NATIVE") == "1"
if not NATIVE:
    ctypes.cdll.LoadLibrary = refuse

os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
import torch  # noqa: E402
import bitsandbytes.functional as F  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM, BitsAndBytesConfig  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
failures = 0


def check(name, ok, detail=""):
    global failures
    failures += not ok
    print(("ok    " if ok else "FAILED"), name, detail, flush=True)


def tensors(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def ours(values, kind, size, mode, folder):
    out = os.path.join(folder, "ours.safetensors")
    subprocess.run([sys.argv[2], kind, str(size), mode, out], input=values.numpy().tobytes(), check=True)
    return tensors(out)


def equal(a, b):
    return a.dtype == b.dtype and a.numel() == b.numel() and torch.equal(a.reshape(-1), b.reshape(-1))


def hard_values():
    """Of each block of 32 one is 1 or -1 and the rest lie between two codes, or all are zeros or denormals."""
    generator = torch.Generator().manual_seed(19)
    ties = []
    for kind in ("nf4", "fp4"):
        codes = F.get_4bit_type(kind, device="cpu").sort().values
        middles = (codes[1:] + codes[:-1]) / 2
        ties += [middles, middles.nextafter(torch.tensor(2.0)), middles.nextafter(torch.tensor(-2.0))]
    ties = torch.cat(ties)
    values = ties[torch.randint(len(ties), (1_000_003,), generator=generator)]
    values[::64] = 1.0
    values[32::64] = -1.0
    zeros = torch.zeros(100_000)
    zeros[::2] = -0.0
    values[200_000:300_000] = zeros
    values[400_000:500_000] = torch.randn(100_000, generator=generator) * 1e-40
    return values


def compare_four_bit(which, values, size, folder):
    for kind in ("nf4", "fp4"):
        for mode in ("single", "double"):
            found = ours(values, kind, size, mode, folder)
            codes, state = F.quantize_4bit(
                values.reshape(1, -1), blocksize=size, quant_type=kind, compress_statistics=mode == "double"
            )
            wanted = {f"x.weight.{k}": v for k, v in state.as_dict(packed=True).items()} | {"x.weight": codes}
            if NATIVE and mode == "double":
                other = (found["x.weight.absmax"] != wanted["x.weight.absmax"]).sum().item()
                print(f"      {kind} {size}: {other} of {codes.numel() * 2 // size} nested codes differ")
                continue
            names = [n for n in wanted if not n.endswith(kind)]
            bad = [n for n in names if not equal(found[n], wanted[n])]
            key = f"x.weight.quant_state.bitsandbytes__{kind}"
            same_state = json.loads(bytes(found[key].tolist())) == json.loads(bytes(wanted[key].tolist()))
            check(f"1,000,003{which} values as {kind}, blocks of {size}, {mode}", not bad and same_state, str(bad or ""))


def million_values(folder):
    torch.manual_seed(17)
    values = torch.randn(1_000_003)
    for size in (32, 64, 128, 256, 512, 1024, 2048, 4096):
        compare_four_bit("", values, size, folder)
    for size in (32, 64, 4096):
        compare_four_bit(" hard", hard_values(), size, folder)
    weight = values[:1_000_000].reshape(1000, 1000)
    found = ours(weight, "int8", 1000, "-", folder)
    codes, absmax, _ = F.int8_vectorwise_quant(weight.half())
    check("1,000,000 values as int8", equal(found["x.weight"], codes) and equal(found["x.SCB"], absmax))


def our_logits(model, ids):
    text = " ".join(map(str, ids.tolist())) + "\n"
    out = subprocess.run([sys.argv[3], "logits", model, "exact"], input=text.encode(), check=True,
                         capture_output=True).stdout
    rows, vocab = np.frombuffer(out, np.int32, 2)
    return torch.from_numpy(np.frombuffer(out, np.float32, offset=8).reshape(rows, vocab).copy())


def decoded_model(path):
    """The quantized checkpoint with its weights decoded to float32, by bitsandbytes."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    for name, module in list(model.named_modules()):
        weight = getattr(module, "weight", None)
        kind = type(module).__name__
        if kind not in ("Linear4bit", "Linear8bitLt"):
            continue
        if kind == "Linear4bit":
            weight.quant_state.dtype = torch.float32
            values = F.dequantize_4bit(weight.data, weight.quant_state)
        else:
            absmax = module.state.SCB if module.state.SCB is not None else weight.SCB
            values = weight.data.float() * (absmax.unsqueeze(1) * (1.0 / 127.0))
        linear = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        linear.weight.data = values.reshape(linear.weight.shape)
        if module.bias is not None:
            linear.bias.data = module.bias.data.float()
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], linear)
    return model


CONFIGS = {
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.float32),
    "fp4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.float32),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


def checkpoints(source, folder):
    generator = torch.Generator().manual_seed(5)
    for kind, config in CONFIGS.items():
        theirs = os.path.join(folder, "theirs-" + kind)
        model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config, dtype=torch.float32)
        ids = torch.randint(3, min(model.config.vocab_size, 280), (48,), generator=generator)
        model.save_pretrained(theirs)
        for name in os.listdir(source):
            if name.startswith(("tokenizer", "vocab", "merges", "special", "generation")):
                shutil.copy(os.path.join(source, name), theirs)
        decoded = decoded_model(theirs)
        with torch.no_grad():
            wanted = decoded(ids[None]).logits[0]
        worst = ((our_logits(theirs, ids) - wanted).abs().max() / wanted.abs().max()).item()
        check(f"{kind}: checkpoint of transformers, logits", worst <= 1e-5, f"{worst:.1e}")

        written = os.path.join(folder, "ours-" + kind)
        options = ["--single-quant"] if kind == "fp4" else []
        print("     ", subprocess.run([sys.argv[1], "model", "quantize", source, "--to", kind, "--out", written, *options],
                                      check=True, capture_output=True, text=True).stdout.strip())
        again = decoded_model(written).state_dict()
        bad = [n for n, v in decoded.state_dict().items() if not torch.equal(v, again[n])]
        check(f"{kind}: folder of ours in transformers, decoded weights", not bad, str(bad[:3] or ""))


def main():
    torch.set_num_threads(1)
    source = sys.argv[4] if len(sys.argv) > 4 else os.path.join(HERE, "..", "golden", "models", "llama")
    with tempfile.TemporaryDirectory() as folder:
        million_values(folder)
        if not NATIVE:
            checkpoints(source, folder)
    sys.exit(1 if failures else 0)


main()
