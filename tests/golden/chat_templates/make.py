"""Writes expected.json: our chat templates rendered by jinja2 3.1.6 as transformers renders them.

  python tests/golden/chat_templates/make.py

templates/smollm2.jinja is the template inside the SmolLM2-135M-Instruct GGUF; the others are
written for this test in the style of their families. Nothing here is random.
"""
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
TOOLS = [{"type": "function", "function": {"name": "search", "description": "Find passages é \"q\".", "parameters": {
    "type": "object", "properties": {"query": {"type": "string"}, "top_k": {"type": "integer", "default": 5}}, "required": ["query"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "abc123def", "function": {
    "name": "search", "arguments": {"query": "Zürich 🙂", "top_k": 3, "exact": False, "since": None, "weight": 0.5}}}]}
user = lambda text: {"role": "user", "content": text}
assistant = lambda text: {"role": "assistant", "content": text}
system = lambda text: {"role": "system", "content": text}
CONVERSATIONS = [
    dict(messages=[user("Hello")], add_generation_prompt=True),
    dict(messages=[user("Hello")], add_generation_prompt=False),
    dict(messages=[system("Be brief."), user("What is RAG?")], add_generation_prompt=True),
    dict(messages=[system("  Spaces around  "), user("  a \n"), assistant(" b\n\n"), user("c")], add_generation_prompt=True),
    dict(messages=[user("one"), assistant("two"), user("three"), assistant("four")], add_generation_prompt=False),
    dict(messages=[user("Ünïcödé 中文 🙂 \u200b e\u0301"), assistant("<|im_end|> {{ not code }} {% x %}"), user("'\"\\ \t")], add_generation_prompt=True),
    dict(messages=[user("")], add_generation_prompt=True),
    dict(messages=[system("S\nT"), user("Use a tool"), CALL, {"role": "tool", "content": "[1] found"}, assistant("Done.")],
         add_generation_prompt=False, tools=TOOLS),
    dict(messages=[user("tools, no calls")], add_generation_prompt=True, tools=TOOLS + TOOLS),
    dict(messages=[assistant("I begin")], add_generation_prompt=True),
    dict(messages=[user("x" * 2000), assistant("line\n" * 50), user("end")], add_generation_prompt=True),
    dict(messages=[system("only a system message")], add_generation_prompt=False),
]
TOKENS = dict(bos_token="<s>", eos_token="</s>")


def main():
    assert jinja2.__version__ == "3.1.6", jinja2.__version__
    cases = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        compiled = chat_template_utils._compile_jinja_template(source)
        for conversation in CONVERSATIONS:
            case = {"template": path.stem, **conversation, **TOKENS}
            try:
                case["expected"] = compiled.render(**{"tools": None, "documents": None, **conversation, **TOKENS})
            except jinja2.exceptions.TemplateError as error:
                case["error"] = str(error)
            cases.append(case)
    text = json.dumps({"jinja2": jinja2.__version__, "transformers": transformers.__version__, "cases": cases}, ensure_ascii=True, indent=0)
    (HERE / "expected.json").write_text(text + "\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


if __name__ == "__main__":
    main()
