"""Makes golden.safetensors: what bitsandbytes makes of values that are hard to round.

  python make.py        (bitsandbytes 0.50.2, torch 2.15.0, numpy 2, safetensors; one thread, seed 7)

The portable backend of bitsandbytes is used (its native library is kept from loading): it rounds by
decision points, as the CUDA kernels do, while the x86 library looks 8-bit codes up in a table of
65,536 entries, which moves some that lie near a border.

  values                         [8205] float32; every case quantizes a prefix of it
  values.double                  [37001], the same for double quantization (579 blocks of 64)
  CASE.codes, CASE.absmax        CASE is <type>.<block size>.<count>
  double.<type>.absmax (uint8), .nested_absmax, .nested_quant_map, .offset, .decoded
  decoded.<type>                 dequantize_4bit of the case <type>.64.8205
layers.safetensors: the state dict of Linear4bit and Linear8bitLt layers nf4 (double quantization,
bfloat16), fp4 (plain, 5 x 97), stored (nf4 whose codes are kept as bfloat16) and int8, each [40, 96] or as
said, and NAME.decoded float32.

  int8.weight [9, 67], .codes, .absmax, .x [5, 67], .y    LLM.int8 with threshold 6
"""
import ctypes
import os

import numpy as np
import torch

load = ctypes.cdll.LoadLibrary


def refuse(path):
    if "libbitsandbytes" in str(path):
        raise RuntimeError("kept from loading")
    return load(path)


ctypes.cdll.LoadLibrary = refuse
import bitsandbytes.functional as F  # noqa: E402
from bitsandbytes.cextension import ErrorHandlerMockBNBNativeLibrary, lib  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

assert isinstance(lib, ErrorHandlerMockBNBNativeLibrary)
torch.set_num_threads(1)


def hard_values(count, rng):
    """Normal values with blocks of 64 that are not normal at all."""
    values = rng.standard_normal(count).astype(np.float32)
    nf4 = F.get_4bit_type("nf4", "cpu").numpy()
    fp4 = np.sort(F.get_4bit_type("fp4", "cpu").numpy())
    block = 64
    values[0:block] = 0
    for at, code in ((1, nf4), (2, fp4)):  # on decision points, absmax a power of two
        ties = (code[:-1] + code[1:]) / 2
        values[at * block : at * block + 15] = ties * np.float32(0.25)
        values[at * block + 15 : at * block + 30] = np.nextafter(ties, np.float32(2)) * np.float32(0.25)
        values[at * block + 30 : at * block + 45] = np.nextafter(ties, np.float32(-2)) * np.float32(0.25)
        values[at * block + 45 : (at + 1) * block] = np.resize([0.25, -0.25, 0, -0.0], 19)
    values[3 * block : 4 * block] *= np.float32(1e-40)  # denormal
    values[4 * block : 5 * block] *= np.float32(3e-39)  # absmax on both sides of 1e-38
    values[5 * block : 6 * block] = 0
    values[5 * block] = -1e-45
    values[6 * block : 7 * block] *= np.float32(1e30)
    values[7 * block + 9] = 3e4  # all others are tiny beside it
    values[8 * block : 9 * block] = np.float32(0.0375)
    for i, code in enumerate(nf4):  # ties that are not exact after the multiplication
        values[9 * block + i] = code * np.float32(0.7)
    values[9 * block + 20] = 0.7
    return torch.from_numpy(values)


def layers():
    """What bitsandbytes saves."""
    import bitsandbytes as bnb

    torch.manual_seed(11)
    out = {}
    cases = {
        "nf4": (40, 96, dict(quant_type="nf4", compress_statistics=True), torch.bfloat16),
        "fp4": (5, 97, dict(quant_type="fp4", compress_statistics=False), torch.float32),
        "stored": (40, 96, dict(quant_type="nf4", quant_storage=torch.bfloat16), torch.float16),
    }
    for name, (n, k, options, dtype) in cases.items():
        layer = bnb.nn.Linear4bit(k, n, bias=name == "nf4", **options)
        layer.weight = bnb.nn.Params4bit((torch.randn(n, k) * 0.05).to(dtype), requires_grad=False, **options)
        layer = layer.to("cpu")
        state = layer.weight.quant_state
        state.dtype, before = torch.float32, state.dtype
        out[name + ".decoded"] = F.dequantize_4bit(layer.weight.data, state).reshape(n, k)
        state.dtype = before
        out.update({f"{name}.{key}": value for key, value in layer.state_dict().items()})
    layer = bnb.nn.Linear8bitLt(96, 40, bias=False, has_fp16_weights=False)
    layer.weight = bnb.nn.Int8Params(torch.randn(40, 96) * 0.05, requires_grad=False)
    layer = layer.to("cpu")
    saved = layer.state_dict()
    out.update({f"int8.{key}": value for key, value in saved.items()})
    out["int8.decoded"] = saved["weight"].float() * (saved["SCB"].unsqueeze(1) * (1.0 / 127.0))
    return {name: tensor.contiguous().clone() for name, tensor in out.items()}


def main():
    rng = np.random.default_rng(7)
    out = {"values": hard_values(8205, rng), "values.double": hard_values(37001, rng) * 0.05}
    x = out["values"]
    for kind in ("nf4", "fp4"):
        for block in (32, 64, 128, 256, 512, 1024, 2048, 4096):
            for count in (2 * block, 8205) if block == 64 else (min(2 * block + 13, 8205),):
                packed, state = F.quantize_4bit(x[:count], blocksize=block, quant_type=kind)
                name = f"{kind}.{block}.{count}"
                out[name + ".codes"] = packed.reshape(-1)
                out[name + ".absmax"] = state.absmax
        for count in (1, 63, 65):
            packed, state = F.quantize_4bit(x[700 : 700 + count], blocksize=64, quant_type=kind)
            out[f"{kind}.64.{count}.codes"] = packed.reshape(-1)
            out[f"{kind}.64.{count}.absmax"] = state.absmax
        packed, state = F.quantize_4bit(x, blocksize=64, quant_type=kind)
        out["decoded." + kind] = F.dequantize_4bit(packed, state)
        values = out["values.double"]
        packed, state = F.quantize_4bit(values, blocksize=64, quant_type=kind, compress_statistics=True)
        double = f"double.{kind}."
        out[double + "absmax"] = state.absmax
        out[double + "nested_absmax"] = state.state2.absmax
        out[double + "nested_quant_map"] = state.state2.code.clone()
        out[double + "offset"] = state.offset.reshape(1)
        out[double + "decoded"] = F.dequantize_blockwise(state.absmax, state.state2) + state.offset

    weight = torch.from_numpy(rng.standard_normal((9, 67)).astype(np.float32) * np.float32(0.05))
    weight[3] = 0
    weight[3, 5] = 1e-3
    weight[4, :30] = torch.arange(30) * 0.5 / 127  # ties of the rounding
    weight[4, 30] = 1.0
    weight[4, 31:] = 0
    weight[5, :2] = torch.tensor([-1.4541015625, 2.908203125])  # half of the absmax: the quotient matters
    codes, absmax, _ = F.int8_vectorwise_quant(weight.half())
    activations = torch.from_numpy(rng.standard_normal((5, 67)).astype(np.float32))
    activations[1, 9] = 7.5
    activations[3, 40] = -60.0
    ca, sca, outliers = F.int8_vectorwise_quant(activations, threshold=6.0)
    y, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(activations, ca, codes, sca, absmax, outliers, None)
    out.update({"int8.weight": weight, "int8.codes": codes, "int8.absmax": absmax, "int8.x": activations, "int8.y": y})
    out = {name: tensor.contiguous().clone() for name, tensor in out.items()}
    save_file(out, os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.safetensors"))
    save_file(layers(), os.path.join(os.path.dirname(os.path.abspath(__file__)), "layers.safetensors"))


main()
