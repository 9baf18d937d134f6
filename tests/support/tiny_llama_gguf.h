#pragma once

#include <cstdint>
#include <filesystem>

// Models small enough to be made in a test, so that engine, server and command line run without the
// real ones. Weights are random but fixed by the seed: the texts they produce are nonsense.
namespace quarry {

// Writes <folder>/tiny-llama.gguf and returns its path. Llama: 2 layers, hidden 64, 4 heads, 2 kv
// heads, feed-forward 128, context 512, tied head; linears Q4_1, token_embd Q8_0, norms F32.
// Tokenizer: byte-level BPE, pre "smollm": <|endoftext|> 0, <|im_start|> 1, <|im_end|> 2, the 256
// bytes, then 40 merges (299 tokens in all). ChatML template, eos <|im_end|>.
std::filesystem::path write_tiny_llama_gguf(const std::filesystem::path& folder, uint64_t seed);

// Fills `folder` as a sentence-transformers folder and returns it. BERT: 2 layers, hidden 64, 4
// heads, feed-forward 128, 128 positions (sequences cut at 64), F32; WordPiece over single
// characters and a few pieces (vocab.txt, tokenizer_config.json), lower-cased; mean pooling, then
// normalize.
std::filesystem::path write_tiny_bert_folder(const std::filesystem::path& folder, uint64_t seed);

}  // namespace quarry
