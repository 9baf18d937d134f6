"""The page at / in headless Chromium (Python of QUARRY_PEER_PYTHON with playwright)."""
import os
import pathlib
import shutil
import sys
import unittest

from server_process import parse_arguments, running_server, skip

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    skip("this Python has no 'playwright' package")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    skip("no chromium program")

arguments = None
base = ""
browser = None


class Page(unittest.TestCase):
    def setUp(self):
        self.context = browser.new_context(viewport={"width": 1100, "height": 900})
        self.page = self.context.new_page()
        self.problems = []
        self.page.on("console", lambda message: message.type in ("error", "warning") and
                     self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.route("**/*", lambda route: route.continue_()
                        if route.request.url.startswith("http://127.0.0.1") else route.abort())

    def tearDown(self):
        self.context.close()

    def shot(self, name):
        if arguments.screenshots:
            folder = pathlib.Path(arguments.screenshots)
            folder.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(folder / f"{name}.png"), full_page=True)

    def ask(self):
        self.page.goto(base + "/")
        expect(self.page.locator("#question")).to_be_focused()
        self.page.keyboard.type(arguments.question)
        self.page.keyboard.press("Enter")
        expect(self.page.locator("#answer")).to_have_attribute("aria-busy", "false", timeout=60000)

    def test_ask_stream_and_open_the_cited_span(self):
        self.ask()
        answer = self.page.locator("#answer")
        self.assertTrue(answer.inner_text().strip(" \u2026"))
        expect(self.page.locator("#spoken")).to_contain_text("Answer: ")
        sources = self.page.locator("#source-list li")
        self.assertGreaterEqual(sources.count(), 1)
        quote = sources.first.locator(".source-quote").text_content()
        self.shot("answer")
        marks = answer.locator("button.cite")
        opener = marks.first if marks.count() else sources.first.locator("button")
        opener.click()
        mark = self.page.locator("#source-text mark")
        expect(mark).to_be_visible()
        if not marks.count() or marks.first.inner_text() == "[1]":
            self.assertEqual(mark.text_content(), quote)
        expect(mark).to_be_in_viewport()
        self.shot("source")
        self.page.keyboard.press("Escape")
        expect(self.page.locator("#source-view")).to_be_hidden()
        expect(opener).to_be_focused()
        self.assertEqual(self.problems, [])

    def test_source_link_opens_by_itself(self):
        self.ask()
        found = self.page.evaluate(
            """async question => {
                 const body = {messages: [{role: 'user', content: question}]};
                 const response = await fetch('/v1/chat/completions', {method: 'POST',
                   headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});
                 return (await response.json()).choices[0].message.annotations[0];
               }""", arguments.question)
        self.page.goto(base + found["url_citation"]["url"])
        expect(self.page.locator("#source-text mark")).to_have_text(
            found["source"]["quote"], use_inner_text=False)
        self.assertEqual(self.problems, [])

    def test_markup_in_documents_and_answers_stays_text(self):
        def answer(route):
            hostile = "<img src=x onerror=window.hurt=1> [1] <script>window.hurt=1</script>"
            events = [
                {"choices": [{"delta": {"content": ""}}], "retrieval": {"answered": True, "citations": [
                    {"number": 1, "uri": "<b>u</b>", "title": hostile, "heading": hostile,
                     "start": 0, "end": 1, "score": 1.0, "quote": hostile}]}},
                {"choices": [{"delta": {"content": hostile}}]},
            ]
            import json
            body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
            route.fulfill(content_type="text/event-stream", body=body + "data: [DONE]\n\n")
        self.page.route("**/v1/chat/completions", answer)
        self.ask()
        self.assertIn("<img", self.page.locator("#answer").inner_text())
        self.assertEqual(self.page.locator("#result img, #result script, #result b").count(), 0)
        self.assertIsNone(self.page.evaluate("window.hurt ?? null"))

    def test_failure_in_the_middle_is_shown(self):
        body = ('data: {"choices":[{"delta":{"content":"half an "}}]}\n\n'
                'data: {"error":{"message":"the model failed: no memory"}}\n\n')
        self.page.route("**/v1/chat/completions", lambda route: route.fulfill(
            content_type="text/event-stream", body=body))
        self.ask()
        expect(self.page.locator("#error")).to_have_text("the model failed: no memory")
        expect(self.page.locator("#answer")).to_have_text("half an")

    def test_stop_button_ends_the_stream(self):
        self.page.add_init_script("""
          const real = window.fetch;
          window.fetch = (url, options) => url !== '/v1/chat/completions' ? real(url, options) :
            Promise.resolve(new Response(new ReadableStream({start(controller) {
              options.signal.addEventListener('abort', () =>
                controller.error(new DOMException('stopped', 'AbortError')));
              controller.enqueue(new TextEncoder().encode(
                'data: {"choices":[{"delta":{"content":"and so on"}}]}\\n\\n'));
            }})));""")
        self.page.goto(base + "/")
        self.page.fill("#question", "Go on")
        self.page.click("#send")
        expect(self.page.locator("#answer")).to_have_text("and so on")
        expect(self.page.locator("#answer")).to_have_attribute("aria-busy", "true")
        self.page.click("#stop")
        expect(self.page.locator("#spoken")).to_have_text("Stopped.")
        expect(self.page.locator("#stop")).to_be_hidden()
        expect(self.page.locator("#error")).to_be_hidden()

    def test_every_control_has_a_name_and_small_screens_fit(self):
        self.ask()
        unnamed = self.page.evaluate("""() => [...document.querySelectorAll(
            'button, input, textarea, select')].filter(node => !(node.labels && node.labels.length)
            && !node.getAttribute('aria-label') && !node.textContent.trim()).length""")
        self.assertEqual(unnamed, 0)
        self.page.set_viewport_size({"width": 320, "height": 700})
        self.assertLessEqual(self.page.evaluate("document.documentElement.scrollWidth"), 320)
        self.shot("narrow")
        self.page.emulate_media(color_scheme="dark")
        self.page.set_viewport_size({"width": 1100, "height": 900})
        self.shot("dark")

    def test_key_is_asked_for_once(self):
        if not arguments.keyed_server_cmd:
            self.skipTest("no --keyed-server-cmd")
        with running_server(arguments.keyed_server_cmd) as keyed:
            self.page.goto(keyed + "/")
            expect(self.page.locator("#key")).to_be_focused()
            expect(self.page.locator("#error")).to_contain_text("API key")
            self.page.fill("#key", "test-key")
            self.page.keyboard.press("Tab")
            expect(self.page.locator("#error")).to_be_hidden()
            self.page.fill("#question", arguments.question)
            self.page.click("#send")
            expect(self.page.locator("#spoken")).to_contain_text("Answer: ", timeout=60000)


def main():
    global arguments, base, browser
    arguments = parse_arguments(__doc__)
    with running_server(arguments.server_cmd) as url, sync_playwright() as playwright:
        base = url
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        result = unittest.main(argv=sys.argv[:1], exit=False).result
        browser.close()
    sys.exit(0 if result.wasSuccessful() else 1)


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    main()
