#!/usr/bin/env bash
# Clean release builds of a base revision and of this tree, in turns: CPU and wall seconds, size, crates.
#   benches/build.sh [BASE=]REVISION [ROUNDS]
# Then an incremental build after a touched source file of each, likewise in turns.
# Both are clones in a temporary folder; the working tree's changes count.
set -eu
cd "$(dirname "$0")/.."
base=${1:-HEAD}
base=${base#BASE=}
rounds=${2:-3}
git rev-parse --quiet --verify "$base^{commit}" >/dev/null || {
  echo "build.sh: no revision \"$base\"" >&2
  exit 2
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet --no-local . "$folder/base"
git -C "$folder/base" checkout --quiet --detach "$(git rev-parse "$base")"
git clone --quiet --no-local . "$folder/tree"
git diff HEAD --binary | git -C "$folder/tree" apply --allow-empty
for side in base tree; do (cd "$folder/$side" && cargo fetch --quiet --locked); done

# build SIDE KIND: appends "CPU WALL" to SIDE.KIND
build() {
  local TIMEFORMAT='%U %S %R' times
  times=$({ time (cd "$folder/$1" && cargo build --quiet --release --offline --target-dir "$folder/$1.target") >&2; } 2>&1)
  awk '{ print $1 + $2, $3 }' <<<"$times" >>"$folder/$1.$2"
}

# touched SIDE: the source file that the incremental build begins with
touched() {
  for file in src/engine/supervisor/mod.rs src/supervisor/mod.rs; do
    if [ -e "$folder/$1/$file" ]; then touch "$folder/$1/$file"; return; fi
  done
}

for _ in $(seq "$rounds"); do
  for side in base tree; do
    rm -rf "$folder/$side.target"
    build "$side" clean
    touched "$side"
    build "$side" touched
  done
done

# median FILE COLUMN
median() { cut -d ' ' -f "$2" "$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
crates() { (cd "$folder/$1" && cargo tree --offline --edges normal,build --prefix none | sed 's/ (\*)$//' | sort -u | grep -c .); }

printf '| release build, medians of %s in turns, %s cores | %s | this tree | ratio |\n| --- | --- | --- | --- |\n' \
  "$rounds" "$(nproc)" "$base"
for kind in clean touched; do
  for column in 1 2; do
    name="CPU s"
    [ $column = 1 ] || name="wall s"
    a=$(median "$folder/base.$kind" $column)
    b=$(median "$folder/tree.$kind" $column)
    awk -v n="$kind, $name" -v a="$a" -v b="$b" 'BEGIN { printf "| %s | %.1f | %.1f | %.2f |\n", n, a, b, b / a }'
  done
done
a=$(stat -c %s "$folder/base.target/release/bpm")
b=$(stat -c %s "$folder/tree.target/release/bpm")
awk -v a="$a" -v b="$b" 'BEGIN { printf "| binary, bytes | %d | %d | %.2f |\n", a, b, b / a }'
printf '| crates | %s | %s | |\n' "$(crates base)" "$(crates tree)"
