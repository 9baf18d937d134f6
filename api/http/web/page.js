// The page: asks /v1/chat/completions as a stream and shows the answer with its sources.
// Text from the model or the documents only ever becomes text nodes, never markup.
"use strict";

const $ = (id) => document.getElementById(id);
const state = { abort: null, asked: [], recall: 0, opener: null };

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function headers() {
  const key = $("key").value.trim();
  const all = { "Content-Type": "application/json" };
  if (key) all.Authorization = "Bearer " + key;
  return all;
}

function showError(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

async function errorOf(response) {
  if (response.status === 401) {
    $("key-row").hidden = false;
    $("key").focus();
  }
  try {
    return (await response.json()).error.message;
  } catch {
    return "The server answered with status " + response.status + ".";
  }
}

async function fetchJson(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw new Error(await errorOf(response));
  return response.json();
}

// --- models ------------------------------------------------------------------------------------

async function loadModels() {
  try {
    const list = await fetchJson("/v1/models");
    const chosen = $("model").value;
    $("model").replaceChildren();
    for (const model of list.data) {
      if (model.kind === "embedding") continue;
      const option = element("option", "", model.id);
      option.value = model.id;
      $("model").append(option);
    }
    if (chosen) $("model").value = chosen;
    showError("");
  } catch (error) {
    showError(error.message);
  }
}

// --- sources -----------------------------------------------------------------------------------

function showSources(citations) {
  const list = $("source-list");
  list.replaceChildren();
  $("sources").hidden = citations.length === 0;
  for (const source of citations) {
    const item = element("li");
    const open = element("button", "source-open", "[" + source.number + "] " + (source.title || source.uri));
    open.type = "button";
    open.addEventListener("click", () => openSource(source, open));
    item.append(open);
    if (source.heading) item.append(element("div", "source-heading", source.heading));
    item.append(element("div", "source-score", source.uri + " \u00b7 score " + source.score.toFixed(3)));
    item.append(element("p", "source-quote", source.quote));
    list.append(item);
  }
}

async function openSource(source, opener) {
  state.opener = opener || null;
  try {
    const query = new URLSearchParams({ uri: source.uri, start: source.start, end: source.end, context: 20000 });
    const found = await fetchJson("/documents?" + query);
    const mark = element("mark", "", found.span);
    mark.id = "cited";
    $("source-title").textContent = (source.number ? "[" + source.number + "] " : "") + (found.title || found.uri);
    $("source-where").textContent = found.uri + ", bytes " + found.start + " to " + found.end;
    $("source-text").replaceChildren((found.cut_before ? "\u2026" : "") + found.before, mark,
      found.after + (found.cut_after ? "\u2026" : ""));
    $("source-view").hidden = false;
    $("source-view").focus({ preventScroll: true });
    $("source-view").scrollIntoView({ block: "nearest" });
    $("source-text").scrollTop = mark.offsetTop - $("source-text").offsetTop - 60;
    showError("");
  } catch (error) {
    showError(error.message);
  }
}

function closeSource() {
  $("source-view").hidden = true;
  (state.opener || $("question")).focus();
}

// Turns the marks "[1]" of a finished answer into buttons.
function linkMarks(text, citations) {
  const pieces = text.split(/(\[\d+\])/);
  const nodes = pieces.map((piece) => {
    const source = citations.find((each) => "[" + each.number + "]" === piece);
    if (!source) return document.createTextNode(piece);
    const button = element("button", "cite", piece);
    button.type = "button";
    button.title = source.quote;
    button.setAttribute("aria-label", "Source " + source.number + ": " + (source.title || source.uri));
    button.addEventListener("click", () => openSource(source, button));
    return button;
  });
  $("answer").replaceChildren(...nodes);
}

// --- asking ------------------------------------------------------------------------------------

// Calls onEvent with each JSON event of a server-sent stream.
async function readEvents(response, onEvent) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The stream ended before the answer was whole.");
    buffer += value;
    for (let end; (end = buffer.indexOf("\n\n")) >= 0;) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (!event.startsWith("data: ")) continue;
      const data = event.slice(6);
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new Error(parsed.error.message);
      onEvent(parsed);
    }
  }
}

function setBusy(busy) {
  $("send").disabled = busy;
  $("stop").hidden = !busy;
  $("answer").setAttribute("aria-busy", String(busy));
}

function timingText(start, firstAt, usage) {
  const now = performance.now();
  const parts = [];
  if (firstAt) parts.push("first words after " + ((firstAt - start) / 1000).toFixed(1) + " s");
  if (usage && firstAt && usage.completion_tokens > 1 && now - firstAt > 200) {
    parts.push((usage.completion_tokens / ((now - firstAt) / 1000)).toFixed(0) + " tokens/s");
  }
  parts.push(((now - start) / 1000).toFixed(1) + " s in all");
  return parts.join(", ");
}

async function streamAnswer(question, answer) {
  const body = {
    model: $("model").value || undefined,
    messages: [{ role: "user", content: question }],
    stream: true,
    stream_options: { include_usage: true },
  };
  if (!$("retrieval").checked) body.retrieval = false;
  const response = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal: state.abort.signal,
  });
  if (!response.ok) throw new Error(await errorOf(response));
  const node = document.createTextNode("");
  $("answer").replaceChildren(node);
  await readEvents(response, (event) => {
    if (event.retrieval) {
      answer.citations = event.retrieval.citations;
      $("answer").classList.toggle("nothing", !event.retrieval.answered);
      showSources(answer.citations);
    }
    if (event.usage) answer.usage = event.usage;
    const delta = event.choices.length ? event.choices[0].delta.content : "";
    if (!delta) return;
    answer.firstAt = answer.firstAt || performance.now();
    answer.text += delta;
    node.appendData(delta);
  });
}

async function ask(question) {
  const answer = { text: "", citations: [], usage: null, firstAt: 0 };
  const start = performance.now();
  state.abort = new AbortController();
  showError("");
  $("source-view").hidden = true;
  $("result").hidden = false;
  $("asked").textContent = question;
  $("answer").className = "";
  $("answer").textContent = "\u2026";
  $("timing").textContent = "";
  $("spoken").textContent = "";
  showSources([]);
  setBusy(true);
  try {
    await streamAnswer(question, answer);
    $("spoken").textContent = "Answer: " + answer.text;
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (stopped) $("spoken").textContent = "Stopped.";
    else showError(error instanceof TypeError ? "The server cannot be reached." : error.message);
    if (!answer.text) $("answer").textContent = stopped ? "Stopped." : "";
  }
  if (answer.text) linkMarks(answer.text, answer.citations);
  $("timing").textContent = timingText(start, answer.firstAt, answer.usage);
  state.abort = null;
  setBusy(false);
}

// --- wiring ------------------------------------------------------------------------------------

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || state.abort) return;
  state.asked.push(question);
  state.recall = state.asked.length;
  ask(question);
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  } else if (event.key === "ArrowUp" && !$("question").value && state.recall > 0) {
    $("question").value = state.asked[--state.recall];
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (state.abort) state.abort.abort();
    else if (!$("source-view").hidden) closeSource();
  } else if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) {
    event.preventDefault();
    $("question").focus();
  }
});

$("stop").addEventListener("click", () => state.abort && state.abort.abort());
$("close-source").addEventListener("click", closeSource);
$("key").addEventListener("change", loadModels);

async function start() {
  await loadModels();
  if (location.pathname !== "/source") return $("key-row").hidden && $("question").focus();
  const query = new URLSearchParams(location.search);
  openSource({ uri: query.get("uri") || "", start: query.get("start") || "0", end: query.get("end") || "0" });
}
start();
