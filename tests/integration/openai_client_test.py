"""The unmodified `openai` client against a Quarry server (Python of QUARRY_PEER_PYTHON)."""
import base64
import json
import math
import struct
import sys
import unittest
import urllib.error
import urllib.request

from server_process import parse_arguments, running_server, skip

try:
    import openai
except ImportError:
    skip("this Python has no 'openai' package")

base = ""
question = []
keyed_command = ""


def client(key="none"):
    return openai.OpenAI(base_url=base + "/v1", api_key=key, max_retries=0, timeout=120)


def model_of_kind(kind):
    return next(model.id for model in client().models.list() if model.kind == kind)


class Models(unittest.TestCase):
    def test_list_and_retrieve(self):
        ids = [model.id for model in client().models.list()]
        self.assertGreaterEqual(len(ids), 2)
        for name in ids:
            self.assertEqual(client().models.retrieve(name).id, name)

    def test_unknown_model_is_not_found(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            client().models.retrieve("gpt-9")
        self.assertEqual(caught.exception.code, "model_not_found")


class Chat(unittest.TestCase):
    def setUp(self):
        self.model = model_of_kind("base")

    def ask(self, **options):
        return client().chat.completions.create(
            model=self.model, messages=question, max_tokens=64, temperature=0, **options)

    def test_answer_with_citations(self):
        answer = self.ask()
        message = answer.choices[0].message
        self.assertTrue(message.content)
        self.assertIn(answer.choices[0].finish_reason, ("stop", "length"))
        self.assertEqual(answer.usage.total_tokens,
                         answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertTrue(answer.retrieval["answered"])
        self.assertTrue(message.annotations)
        for annotation in message.annotations:
            self.assertEqual(annotation.type, "url_citation")
            span = annotation.url_citation
            self.assertLessEqual(span.end_index, len(message.content))
            self.assertLess(span.start_index, span.end_index)
            source = annotation.source
            with urllib.request.urlopen(
                    f"{base}/documents?format=text&uri=" +
                    urllib.request.quote(source["uri"])) as response:
                text = response.read()
            quoted = text[source["start"]:source["end"]].decode()
            self.assertEqual(quoted, source["quote"])

    def test_mark_in_the_answer_is_what_the_annotation_covers(self):
        message = self.ask().choices[0].message
        for annotation in message.annotations:
            mark = f"[{annotation.source['number']}]"
            if mark in message.content:
                span = annotation.url_citation
                self.assertEqual(message.content[span.start_index:span.end_index], mark)

    def test_stream_equals_plain_answer(self):
        plain = self.ask()
        text, roles, reasons, annotations, usage = "", [], [], [], None
        for chunk in self.ask(stream=True, stream_options={"include_usage": True}):
            if chunk.usage:
                usage = chunk.usage
                self.assertEqual(chunk.choices, [])
                continue
            delta = chunk.choices[0].delta
            roles.append(delta.role)
            text += delta.content or ""
            annotations += getattr(delta, "annotations", None) or []
            reasons.append(chunk.choices[0].finish_reason)
        self.assertEqual(text, plain.choices[0].message.content)
        self.assertEqual(roles[0], "assistant")
        self.assertEqual(reasons[-1], plain.choices[0].finish_reason)
        self.assertEqual(len(annotations), len(plain.choices[0].message.annotations))
        self.assertEqual(usage.completion_tokens, plain.usage.completion_tokens)

    def test_retrieval_off_through_extra_body(self):
        answer = self.ask(extra_body={"retrieval": False})
        self.assertEqual(answer.choices[0].message.annotations, [])
        self.assertIsNone(answer.retrieval)

    def test_wrong_model(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            client().chat.completions.create(model="gpt-9", messages=question)
        self.assertEqual(caught.exception.code, "model_not_found")
        self.assertIn("'gpt-9'", caught.exception.message)

    def test_bad_value_names_the_field(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(n=3)
        self.assertEqual(caught.exception.param, "n")

    def test_over_long_prompt(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            client().chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": "engine " * 40000}])
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_malformed_json(self):
        request = urllib.request.Request(
            base + "/v1/chat/completions", data=b'{"messages": [}',
            headers={"Content-Type": "application/json"})
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        self.assertEqual(caught.exception.code, 400)
        body = json.load(caught.exception)["error"]
        self.assertEqual(set(body), {"message", "type", "param", "code"})
        self.assertIn("byte", body["message"])


class Completions(unittest.TestCase):
    def test_plain_and_streamed(self):
        options = {"model": model_of_kind("base"), "prompt": "Once upon a time",
                   "max_tokens": 12, "temperature": 0}
        plain = client().completions.create(**options).choices[0].text
        self.assertTrue(plain)
        parts = client().completions.create(stream=True, **options)
        self.assertEqual("".join(part.choices[0].text for part in parts), plain)

    def test_same_seed_same_text(self):
        options = {"model": model_of_kind("base"), "prompt": "Once", "max_tokens": 12,
                   "temperature": 1.0, "seed": 11}
        texts = {client().completions.create(**options).choices[0].text for _ in range(2)}
        self.assertEqual(len(texts), 1)


class Embeddings(unittest.TestCase):
    def test_default_base64_equals_float(self):
        model = model_of_kind("embedding")
        texts = ["steam engines", "a much longer text about coal and other fuels"]
        by_default = client().embeddings.create(model=model, input=texts)  # asks for base64
        as_floats = client().embeddings.create(model=model, input=texts, encoding_format="float")
        self.assertEqual([entry.index for entry in by_default.data], [0, 1])
        for packed, plain in zip(by_default.data, as_floats.data):
            self.assertEqual(len(packed.embedding), len(plain.embedding))
            self.assertAlmostEqual(math.fsum(x * x for x in plain.embedding), 1.0, places=4)
            for a, b in zip(packed.embedding, plain.embedding):
                self.assertAlmostEqual(a, b, places=6)
        self.assertGreater(by_default.usage.prompt_tokens, 0)

    def test_raw_base64_is_little_endian_float32(self):
        model = model_of_kind("embedding")
        raw = client().embeddings.with_raw_response.create(
            model=model, input="coal", encoding_format="base64")
        packed = json.loads(raw.text)["data"][0]["embedding"]
        data = base64.b64decode(packed, validate=True)
        values = struct.unpack(f"<{len(data) // 4}f", data)
        self.assertAlmostEqual(math.fsum(x * x for x in values), 1.0, places=4)


class Keys(unittest.TestCase):
    def test_missing_and_right_key(self):
        global base
        if not keyed_command:
            self.skipTest("no --keyed-server-cmd")
        outer = base
        with running_server(keyed_command) as keyed:
            base = keyed
            try:
                with self.assertRaises(openai.AuthenticationError) as caught:
                    client("wrong").models.list()
                self.assertEqual(caught.exception.response.headers["www-authenticate"], "Bearer")
                self.assertTrue(client("test-key").models.list().data)
            finally:
                base = outer


def main():
    global base, keyed_command, question
    arguments = parse_arguments(__doc__)
    question = [{"role": "user", "content": arguments.question}]
    keyed_command = arguments.keyed_server_cmd
    with running_server(arguments.server_cmd) as url:
        base = url
        result = unittest.main(argv=sys.argv[:1], exit=False).result
    sys.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    main()
