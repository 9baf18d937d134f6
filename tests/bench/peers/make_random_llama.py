"""A llama of 1.1 billion random weights as a Q4_0 GGUF, for generate_vs_llama_cpp.py: bytes to read are all it is for.

  python make_random_llama.py TOKENIZER.gguf OUT.gguf [--layers 16]        (gguf 0.19)

Hidden size 2048, intermediate 8192, 32 heads, 8 of keys and values, 16 layers; vocabulary and tokenizer are those of
TOKENIZER.gguf. The embedding, which is the head too, is Q8_0 as in files of that size; the norms are ones. Blocks are
random bytes with one scale, so that nothing has to be quantized.
"""
import argparse

import gguf
import numpy as np

HIDDEN, INNER, HEADS, KV_HEADS, CONTEXT = 2048, 8192, 32, 8, 8192
Q4_0, Q8_0 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0


def random_blocks(rng, kind, rows, columns):
    block_bytes = 18 if kind == Q4_0 else 34
    blocks = rng.integers(0, 256, (rows, columns // 32, block_bytes), dtype=np.uint8)
    blocks[:, :, :2] = np.frombuffer(np.float16(0.003 if kind == Q4_0 else 0.0003).tobytes(), np.uint8)
    return blocks.reshape(rows, -1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=16)
    options = parser.parse_args()
    source = gguf.GGUFReader(options.tokenizer)
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(options.out, "llama")
    writer.add_block_count(options.layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for name, field in source.fields.items():
        if name.startswith("tokenizer.") and name != "tokenizer.chat_template":
            element = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], element)
    vocabulary = len(source.fields["tokenizer.ggml.tokens"].data)
    writer.add_vocab_size(vocabulary)
    key_width = HIDDEN // HEADS * KV_HEADS
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (key_width, HIDDEN), "attn_v": (key_width, HIDDEN),
              "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN),
              "ffn_down": (HIDDEN, INNER)}
    writer.add_tensor("token_embd.weight", random_blocks(rng, Q8_0, vocabulary, HIDDEN), raw_dtype=Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(options.layers):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", random_blocks(rng, Q4_0, *shape), raw_dtype=Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
