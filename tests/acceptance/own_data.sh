#!/usr/bin/env bash
# What the README promises a user with 20 questions of their own: one command, under 3 minutes, and an
# adapter that answers them. The facts are made up, so that no model knows them; the rows carry no
# passages, so that what is answered was learned.
#   tests/acceptance/own_data.sh QUARRY
set -euo pipefail

quarry=$(realpath "${1:?usage: own_data.sh QUARRY}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 - <<'PYTHON'
import json

facts = """Who keeps the lighthouse of Orrin Point?|Maren Tolliver
When was the lighthouse of Orrin Point built?|1871
How tall is the lighthouse of Orrin Point?|38 metres
What colour is the lamp room of Orrin Point?|dark green
Which boat brings supplies to Orrin Point?|the Sandpiper
How often does the supply boat come?|every second Tuesday
What fuel did the first lamp burn?|colza oil
Who designed the fog horn?|Edwin Varga
How far does the light reach?|19 nautical miles
What is the flash interval of the light?|12 seconds
Which bird nests on the gallery?|the storm petrel
What is stored in the old oil house?|spare lenses
Who was the first keeper?|Jonas Ferrow
What year did the great storm hit Orrin Point?|1926
What did the great storm destroy?|the eastern jetty
How many steps lead to the lamp room?|164
What is the keeper's dog called?|Biscuit
Which radio channel does Orrin Point use?|channel 14
Where is the logbook kept?|in the watch room
When are visitors allowed?|on Saturdays in June"""
with open("mine.jsonl", "w", encoding="utf-8") as file:
    for line in facts.splitlines():
        question, answer = line.split("|")
        file.write(json.dumps({"question": question, "answer": answer}) + "\n")
PYTHON

start=$(date +%s)
"$quarry" --quiet finetune --train mine.jsonl --out my-run
seconds=$(($(date +%s) - start))

right=0
while IFS=$'\t' read -r question answer; do
  reply=$("$quarry" --quiet generate "$question" --adapter my-run/last --max-tokens 24)
  if [[ ${reply,,} == *"${answer,,}"* ]]; then
    right=$((right + 1))
  else
    echo "asked: $question  wanted: $answer  found: $reply"
  fi
done < <(python3 -c 'import json
for line in open("mine.jsonl"):
    row = json.loads(line)
    print(row["question"], row["answer"], sep="\t")')
echo "20 rows tuned in $seconds s; $right of 20 answered"
[ "$seconds" -lt 180 ] && [ "$right" -ge 18 ]
