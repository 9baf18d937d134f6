#!/usr/bin/env bash
# `quarry serve` with the real models: answers, streams, lists models, and Ctrl-C ends it with status 0.
#   serve_test.sh QUARRY
set -euo pipefail
quarry=$1
"$quarry" model info smollm2-135m-instruct >/dev/null 2>&1 && "$quarry" model info all-minilm-l6-v2 >/dev/null 2>&1 ||
  { echo "the default models are not installed"; exit 77; }
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 "$server" 2>/dev/null; rm -rf "$work"' EXIT
mkdir "$work/docs"
echo 'The lighthouse of Brackwater was built in 1874 by the engineer Ada Thorne.' >"$work/docs/lighthouse.txt"
"$quarry" index build "$work/index" "$work/docs" --quiet >/dev/null

start() {
  "$quarry" serve "$work/index" --port 0 --prefix-cache-file "$work/prefixes" 2>"$work/log" &
  server=$!
  for _ in $(seq 200); do
    grep -q '^serving' "$work/log" && break
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
  done
  url=$(grep -o 'http://[0-9.:]*' "$work/log")
}
stop() {
  kill -INT "$server"
  status=0
  wait "$server" || status=$?
  server=
  [ "$status" = 0 ] || { echo "FAIL: exit status $status after Ctrl-C"; cat "$work/log"; exit 1; }
}
start

expect() { # expect WHAT PATTERN TEXT
  grep -q "$2" <<<"$3" || { echo "FAIL: $1: no '$2' in: $3"; exit 1; }
}
ask='{"model":"smollm2-135m-instruct","max_tokens":32,"messages":[{"role":"user","content":"Who built the lighthouse of Brackwater?"}]'
expect health '"\?status' "$(curl -sf "$url/healthz")"
curl -sf "$url/readyz" >/dev/null
expect models 'smollm2-135m-instruct' "$(curl -sf "$url/v1/models")"
answer=$(curl -sf "$url/v1/chat/completions" -H 'Content-Type: application/json' -d "$ask}")
expect answer '"chat.completion"' "$answer"
expect citation 'lighthouse.txt' "$answer"
stream=$(curl -sfN "$url/v1/chat/completions" -H 'Content-Type: application/json' -d "$ask,\"stream\":true}")
expect stream 'data: \[DONE\]' "$stream"
found=$(curl -sf "$url/v1/search" -H 'Content-Type: application/json' -d '{"query":"lighthouse"}')
expect search 'Ada Thorne' "$found"
# The command line prints what HTTP answers, under the same names; only times differ.
python3 - "$found" "$("$quarry" search "$work/index" lighthouse --json)" "$answer" \
  "$("$quarry" ask "$work/index" 'Who built the lighthouse of Brackwater?' --adapter none --max-tokens 32 --json)" <<'EOF'
import json, sys
served, printed, chat, asked = map(json.loads, sys.argv[1:])
for found in served, printed, chat["retrieval"], asked:
    assert found.pop("search_seconds") > 0, found
assert served == printed, f"FAIL: search differs: {served} and {printed}"
expected = chat["retrieval"] | {name: chat[name] for name in ("adapter", "usage")}
asked = {name: asked[name] for name in expected}
assert asked["citations"], "FAIL: nothing was cited"
assert asked == expected, f"FAIL: an answer differs: {asked} and {expected}"
EOF
expect metrics 'quarry_' "$(curl -sf "$url/metrics")"
expect page '<title>' "$(curl -sf "$url/")"
wrong=$(curl -s -o /dev/null -w '%{http_code}' "$url/v1/chat/completions" -H 'Content-Type: application/json' -d '{"model":"no-such","messages":[]}')
[ "$wrong" = 404 ] || { echo "FAIL: a wrong model gives $wrong"; exit 1; }
if "$quarry" serve "$work/index" --port "${url##*:}" 2>"$work/second"; then echo "FAIL: a port was taken twice"; exit 1; fi
expect 'port in use' "${url##*:}" "$(cat "$work/second")"

stop
start
expect 'kept prefixes' '^prefix cache: .* MB from' "$(cat "$work/log")"
again=$(curl -sf "$url/v1/chat/completions" -H 'Content-Type: application/json' -d "$ask}")
expect 'tokens cached over a restart' '"cached_tokens": *[1-9][0-9]' "$again"
text() { python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])'; }
[ "$(text <<<"$again")" = "$(text <<<"$answer")" ] || { echo "FAIL: another answer after a restart: $again"; exit 1; }
stop
truncate -s -1 "$work/prefixes"
start
expect 'damaged prefixes' '^warning: .*the prefix cache begins empty' "$(cat "$work/log")"
stop
[ "$(ls "$work" | grep -c prefixes)" = 1 ] || { echo "FAIL: temporary files stay: $(ls "$work")"; exit 1; }
echo "answers, streams, lists, searches; Ctrl-C exits 0; the prefix cache survives it"
