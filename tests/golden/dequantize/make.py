"""Golden for tests/generator/quant/dequantize_test.cpp.

Made with gguf 0.19.0 and numpy; seed 20261124. Run:  python make.py  (writes dequantize.bin here).

For each type: uint32 number of elements n, uint32 number of bytes b, b bytes of random blocks
(scales are finite halves, all other bytes uniform), n float32 as gguf.quants.dequantize gives them.
Little-endian.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# Type, byte offsets of the halves in a block, blocks in the golden.
CASES = [
    (T.F16, [0], 70), (T.BF16, [], 70),
    (T.Q4_0, [0], 5), (T.Q4_1, [0, 2], 5), (T.Q5_0, [0], 5), (T.Q5_1, [0, 2], 5), (T.Q8_0, [0], 5),
    (T.Q4_K, [0, 2], 3), (T.Q5_K, [0, 2], 3), (T.Q6_K, [208], 3),
]


def main():
    rng = np.random.default_rng(20261124)
    out = bytearray()
    for kind, halves, blocks in CASES:
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        data = rng.integers(0, 256, size=(blocks, block_bytes), dtype=np.uint8)
        for offset in halves:
            scale = rng.normal(0.0, 0.3, size=blocks).astype(np.float16)
            scale[0] = np.float16(6e-8)  # a subnormal
            data[:, offset:offset + 2] = scale.view(np.uint8).reshape(blocks, 2)
        if kind == T.BF16:
            data = (rng.normal(size=blocks).astype(np.float32).view(np.uint32) >> 16).astype(
                np.uint16).view(np.uint8)
        raw = np.ascontiguousarray(data).reshape(1, -1)
        if kind == T.F16:
            values = raw.view(np.float16).astype(np.float32)
        else:
            values = dequantize(raw, kind).astype(np.float32)
        assert values.size == blocks * block_size and np.isfinite(values).all()
        out += struct.pack("<II", values.size, raw.size) + raw.tobytes() + values.tobytes()
    pathlib.Path(__file__).with_name("dequantize.bin").write_bytes(bytes(out))


main()
