"""Golden for tests/generator/quant/encode_blocks_test.cpp.

Made with gguf 0.19.0 and numpy 2.4; seed 20261126. Run:  python make.py  (writes encode_blocks.bin here).

uint32 number of values n, n float32, then for Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 the bytes that
gguf.quants.quantize gives them. Little-endian.
"""
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import quantize

rng = np.random.default_rng(20261126)
x = rng.standard_normal((16, 32)).astype(np.float32) * np.float32(0.05)
x[0] = 0
x[1] = np.float32(-0.75)  # one value
x[2] = np.arange(32) / np.float32(31)  # a ramp
x[3] = np.arange(-16, 16) * np.float32(0.125)  # ties of the rounding
x[4, 7], x[4, 9] = 0.5, -0.5  # two of the largest magnitude
x[5] *= np.float32(1e-30)  # scales that are 0 as halves
x[6, 0] = 100.0
x[7] = np.abs(x[7])
out = struct.pack("<I", x.size) + x.tobytes()
for kind in (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0):
    out += quantize(x, kind).tobytes()
(pathlib.Path(__file__).parent / "encode_blocks.bin").write_bytes(out)
