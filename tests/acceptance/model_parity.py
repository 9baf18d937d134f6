"""Holds our models against the reference frameworks on the real default models.

  python model_parity.py TOOL SQUAD_PASSAGES [part ...]
      parts: exact fast fast8 lora encoder, or MODEL.gguf: greedy text beside llama.cpp's

TOOL is the built model_tool; SQUAD_PASSAGES a JSONL of {"text": ...}. Prints one line a check and
exits 1 when a limit is missed. Made with torch 2.15, transformers 5.23, peft 0.21,
sentence-transformers 6.2 and, for fast8 and MODEL.gguf, llama-cpp-python 0.3.36 and gguf. Models come from ${QUARRY_HOME:-~/.local/share/quarry}/models.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
HOME = os.environ.get("QUARRY_HOME", os.path.expanduser("~/.local/share/quarry"))
GENERATOR = glob.glob(os.path.join(HOME, "models/smollm2-135m-instruct/*.gguf"))[0]
ENCODER = os.path.join(HOME, "models/all-minilm-l6-v2")

PASSAGES = [
    ("Water boils at 100 degrees Celsius at sea level. At higher altitudes the air pressure is lower, "
     "so water boils at a lower temperature; on the top of Mount Everest it boils at about 68 degrees.",
     "At what temperature does water boil on the top of Mount Everest?"),
    ("The Rhine rises in the Swiss Alps, forms part of the border between Switzerland and Liechtenstein, "
     "and flows through Germany and the Netherlands into the North Sea. It is about 1,230 km long.",
     "Into which sea does the Rhine flow, and how long is it?"),
    ("Marie Curie was born in Warsaw in 1867. She was the first woman to win a Nobel Prize, and the only "
     "person to win the prize in two different scientific fields, physics and chemistry.",
     "In which two fields did Marie Curie win Nobel Prizes?"),
    ("To install the program, unpack the archive, run ./configure, then make, then make install as root. "
     "The option --prefix chooses another folder than /usr/local.",
     "How do I install the program in another folder?"),
    ("The Python with statement calls __enter__ when the block begins and __exit__ when it ends, also when "
     "an exception leaves the block. Files close themselves this way.",
     "When is __exit__ called?"),
    ("A honey bee colony has one queen, some hundreds of drones and up to 60,000 workers. The queen lays up "
     "to 2,000 eggs a day in summer. Workers live about six weeks in summer and several months in winter.",
     "How long do worker bees live?"),
    ("The library opens at nine on weekdays and at ten on Saturdays. It is closed on Sundays and public "
     "holidays. Books may be borrowed for four weeks and renewed twice.",
     "Can I borrow a book on Sunday?"),
    ("In TCP a connection begins with a three-way handshake: the client sends SYN, the server answers "
     "SYN-ACK, and the client sends ACK. Data may flow after that.",
     "What are the three steps of the handshake?"),
    ("The treaty was signed in Paris on 3 September 1783. It ended the American Revolutionary War and "
     "recognised the independence of the United States.",
     "When and where was the treaty signed?"),
    ("Photosynthesis turns light energy into chemical energy. In plants it takes place in the chloroplasts, "
     "where chlorophyll absorbs mostly blue and red light and reflects green.",
     "Why do leaves look green?"),
]
CHATS = [
    "Write a short poem about the sea in autumn.",
    "Explain to a ten year old why the sky is blue.",
    "Give me three tips for writing a clear e-mail to a colleague.",
    "What is the difference between a list and a tuple in Python?",
    "Summarize the story of Romeo and Juliet in three sentences.",
    "Translate 'good morning, how are you?' into French and Spanish.",
    "How do I boil an egg so that the yolk stays soft?",
    "List the planets of the solar system in order from the sun.",
    "Write a SQL query that counts the orders of each customer.",
    "My bicycle chain keeps falling off. What should I check first?",
]


class Report:
    failed = False

    def line(self, name, value, limit, ok):
        print(f"{'ok  ' if ok else 'MISS'}  {name}: {value}   (limit {limit})", flush=True)
        self.failed |= not ok


def ids_text(rows):
    return "".join(" ".join(str(i) for i in row) + "\n" for row in rows).encode()


def tool_logits(tool, precision, rows, adapter=None):
    command = [tool, "logits", GENERATOR, precision] + ([adapter] if adapter else [])
    out = subprocess.run(command, input=ids_text(rows), stdout=subprocess.PIPE, check=True).stdout
    result, at = [], 0
    for row in rows:
        length, vocab = np.frombuffer(out, np.int32, 2, at)
        assert length == len(row)
        result.append(np.frombuffer(out, np.float32, length * vocab, at + 8).reshape(length, vocab))
        at += 8 + 4 * int(length) * int(vocab)
    return result


def load_reference():
    from transformers import AutoModelForCausalLM, AutoTokenizer
    folder, name = os.path.split(GENERATOR)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return tokenizer, model.eval()


def make_prompts(tokenizer):
    questions = [f"Answer from the passage.\n\n[1] {p}\n\nQuestion: {q}" for p, q in PASSAGES] + CHATS
    prompts = []
    for question in questions:
        text = tokenizer.apply_chat_template([{"role": "user", "content": question}],
                                             add_generation_prompt=True, tokenize=False)
        prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    return prompts


@torch.no_grad()
def reference_logits(model, row):
    return model(torch.tensor([row])).logits[0].numpy()


def check_exact(tool, report, tokenizer, model, prompts):
    rows = prompts[:8] + [(prompts[0] + prompts[1] + prompts[2] + prompts[5])[:512]]
    worst = 0.0
    for row, ours in zip(rows, tool_logits(tool, "exact", rows)):
        worst = max(worst, float(np.abs(ours - reference_logits(model, row)).max()))
    report.line(f"exact path, {len(rows)} prompts, {sum(map(len, rows))} tokens, max |d logit|",
                f"{worst:.2e}", "2e-3", worst <= 2e-3)


@torch.no_grad()
def check_fast(tool, report, tokenizer, model, prompts):
    steps = 64
    expected = []
    for row in prompts:
        out = model.generate(torch.tensor([row]), max_new_tokens=steps, min_new_tokens=steps,
                             do_sample=False, eos_token_id=None, pad_token_id=0)
        expected.append(out[0, len(row):].tolist())
    command = [tool, "greedy", GENERATOR, "fast", str(steps)]
    out = subprocess.run(command, input=ids_text(prompts), stdout=subprocess.PIPE, check=True).stdout
    ours = [[int(x) for x in line.split()] for line in out.decode().splitlines()]
    # After its end a text goes on without meaning: only what a user would see is compared.
    end = tokenizer.eos_token_id
    equal = equal_past_end = 0
    for a, b in zip(ours, expected):
        length = b.index(end) + 1 if end in b else steps
        equal += a[:length] == b[:length]
        equal_past_end += a == b
    report.line("fast path, same greedy 64 tokens, prompts of 20", equal, 18, equal >= 18)
    print(f"      the same and past the end of turn: {equal_past_end}")
    rows = [a + b for a, b in zip(prompts, expected)]
    divergences = []
    for row, fast in zip(rows, tool_logits(tool, "fast", rows)):
        p = torch.log_softmax(torch.tensor(reference_logits(model, row)).double(), -1)
        q = torch.log_softmax(torch.tensor(fast).double(), -1)
        divergences.append((p.exp() * (p - q)).sum(-1))
    mean = float(torch.cat(divergences).mean())
    report.line(f"fast path, mean KL(reference || fast) over {sum(map(len, rows))} positions",
                f"{mean:.2e}", "1e-3", mean <= 1e-3)


@torch.no_grad()
def check_fast8(tool, report, tokenizer, model, prompts):
    """Eight-bit activations are as near to the float model as llama.cpp's on the same file."""
    import llama_cpp
    peer = llama_cpp.Llama(GENERATOR, n_ctx=1024, n_threads=2, n_threads_batch=2, logits_all=True,
                           verbose=False)
    ours, theirs, same_top = [], [], []
    for row, values in zip(prompts, tool_logits(tool, "fast8", prompts)):
        p = torch.log_softmax(torch.tensor(reference_logits(model, row)).double(), -1)
        peer.reset()
        peer.eval(row)
        for logits, divergences in ((values, ours), (peer.scores[:len(row)], theirs)):
            q = torch.log_softmax(torch.tensor(np.array(logits)).double(), -1)
            divergences.append((p.exp() * (p - q)).sum(-1))
        same_top.append((torch.tensor(np.array(values)).argmax(-1) == p.argmax(-1)).double())
    mine, peers = (float(torch.cat(x).mean()) for x in (ours, theirs))
    report.line(f"fast8, mean KL(reference || fast8) over {sum(map(len, prompts))} positions; "
                f"llama.cpp {peers:.2e}", f"{mine:.2e}", "llama.cpp's", mine <= peers)
    share = float(torch.cat(same_top).mean())
    report.line("fast8, positions with the reference's most likely token", f"{share:.4f}", ".97",
                share >= 0.97)


@torch.no_grad()
def check_lora(tool, report, tokenizer, model, prompts):
    from peft import LoraConfig, get_peft_model
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    cases = {
        "r=4 q/v": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
        "r=4 all": dict(r=4, lora_alpha=8, target_modules=every),
        "r=16 q/v": dict(r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
        "r=16 all": dict(r=16, lora_alpha=16, target_modules=every),
        "r=16 all rsLoRA": dict(r=16, lora_alpha=8, use_rslora=True, target_modules=every),
    }
    rows = prompts[:3]
    base = [reference_logits(model, row) for row in rows]
    for name, options in cases.items():
        torch.manual_seed(11)
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
        for key, parameter in tuned.named_parameters():
            if "lora_" in key:
                parameter.data.normal_(0.0, 0.02)
        with tempfile.TemporaryDirectory() as folder:
            tuned.save_pretrained(folder)
            ours = tool_logits(tool, "exact", rows, folder)
        worst = moved = 0.0
        for row, got, before in zip(rows, ours, base):
            want = tuned(torch.tensor([row])).logits[0].numpy()
            worst = max(worst, float(np.abs(got - want).max()))
            moved = max(moved, float(np.abs(before - want).max()))
        model = tuned.unload()
        report.line(f"LoRA {name}, max |d logit| (the adapter moves them by {moved:.1f})",
                    f"{worst:.2e}", "1e-3", worst <= 1e-3 and moved > 0.1)


def check_encoder(tool, report, passages_path):
    from sentence_transformers import SentenceTransformer
    with open(passages_path) as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(500))]
    reference = SentenceTransformer(ENCODER, device="cpu").encode(texts, batch_size=32)
    lines = "".join(json.dumps(text) + "\n" for text in texts).encode()
    for precision, limit in (("exact", 0.9999), ("fast", 0.9999), ("fast8", 0.999)):
        start = time.time()
        out = subprocess.run([tool, "encode", ENCODER, precision], input=lines,
                             stdout=subprocess.PIPE, check=True).stdout
        seconds = time.time() - start
        ours = np.frombuffer(out, np.float32).reshape(len(texts), -1)
        cosines = (ours * reference).sum(1) / np.linalg.norm(reference, axis=1)
        report.line(f"encoder {precision}, lowest cosine of {len(texts)} passages ({seconds:.1f} s)",
                    f"{cosines.min():.6f}", limit, cosines.min() >= limit)


def write_decoded(path, out):
    """A GGUF file with the same weights as float32."""
    import gguf
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=element)
    writer.add_file_type(0)  # all float32
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Continuation:
    """64 tokens, and how far ahead each was of the second best, in logits."""

    def __init__(self, peer, row):
        import llama_cpp
        self.tokens, self.margins = [], []
        peer.reset()
        peer.eval(row)
        for _ in range(64):
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(peer.ctx, -1), (peer.n_vocab(),))
            second, first = np.sort(np.partition(logits, -2)[-2:])
            self.margins.append(first - second)
            self.tokens.append(int(logits.argmax()))
            peer.eval(self.tokens[-1:])

    def parts_at(self, tokens, ends):
        """The first place where the text that a user sees differs, or None."""
        length = next((i + 1 for i, token in enumerate(self.tokens) if token in ends), len(self.tokens))
        return next((i for i in range(length) if tokens[i] != self.tokens[i]), None)


def check_gguf(tool, report, path):
    """Greedy text of 64 tokens, ours and llama.cpp's, from one file.

    The limit is for llama.cpp with these weights decoded to float32. As it runs the file itself it rounds
    activations to 8 bits; how often it then gives its own text of the decoded weights is printed too."""
    import llama_cpp
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    def load(file):
        return llama_cpp.Llama(file, n_ctx=1024, n_threads=2, n_threads_batch=2, verbose=False,
                               type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32)

    peer = load(path)
    template = peer.metadata.get("tokenizer.chat_template")

    def ids_of(question):
        if template is None:  # a model without chats goes on with the text
            return peer.tokenize((question + "\nAnswer:").encode(), add_bos=True)
        begin, end = (peer.detokenize([token], special=True).decode()
                      for token in (peer.token_bos(), peer.token_eos()))
        text = Jinja2ChatFormatter(template, end, begin)(
            messages=[{"role": "user", "content": question}]).prompt
        return peer.tokenize(text.encode(), add_bos=False, special=True)

    ends = {peer.token_eos(), peer.tokenize(b"<end_of_turn>", add_bos=False, special=True)[0]}
    prompts = [ids_of(f"Answer from the passage.\n\n[1] {p}\n\nQuestion: {q}") for p, q in PASSAGES]
    prompts += [ids_of(question) for question in CHATS]
    texts = {"as it is": [Continuation(peer, row) for row in prompts]}
    del peer
    with tempfile.TemporaryDirectory() as folder:
        decoded = os.path.join(folder, "decoded.gguf")
        write_decoded(path, decoded)
        peer = load(decoded)
        texts["decoded to float32"] = [Continuation(peer, row) for row in prompts]
        del peer

    def compare(name, ours, peer_name, limit):
        at = [(b, b.parts_at(a, ends)) for a, b in zip(ours, texts[peer_name])]
        margins = sorted(b.margins[i] for b, i in at if i is not None)
        name = f"{os.path.basename(path)} {name}, the same greedy 64 tokens as llama.cpp {peer_name}, prompts of 20"
        equal = len(ours) - len(margins)
        if limit is None:
            print(f"      {name}: {equal}")
        else:
            report.line(name, equal, limit, equal >= limit)
        print("        its margins where they part:", ", ".join(f"{value:.3f}" for value in margins))

    for precision in ("exact", "fast", "fast8"):
        out = subprocess.run([tool, "greedy", path, precision, "64"], input=ids_text(prompts),
                             stdout=subprocess.PIPE, check=True).stdout
        ours = [[int(x) for x in line.split()] for line in out.decode().splitlines()]
        compare(precision, ours, "decoded to float32", None if precision == "fast8" else 18)
        compare(precision, ours, "as it is", None)
    compare("llama.cpp itself", [b.tokens for b in texts["as it is"]], "decoded to float32", None)

def main():
    tool, passages = sys.argv[1:3]
    parts = sys.argv[3:] or ["exact", "fast", "fast8", "lora", "encoder"]
    report = Report()
    if set(parts) & {"exact", "fast", "fast8", "lora"}:
        tokenizer, model = load_reference()
        prompts = make_prompts(tokenizer)
        for part, check in (("exact", check_exact), ("fast", check_fast), ("fast8", check_fast8),
                            ("lora", check_lora)):
            if part in parts:
                check(tool, report, tokenizer, model, prompts)
    if "encoder" in parts:
        check_encoder(tool, report, passages)
    for path in parts:
        if path.endswith(".gguf"):
            check_gguf(tool, report, path)
    sys.exit(1 if report.failed else 0)


main()
