#!/usr/bin/env bash
# Runs each fuzz test of the repository for a time, one after the other, and
# fails when one of them has found something. All "func Fuzz" of test files are
# found; there is no list.
#
# Usage: hack/fuzz.sh TIME [NAME]
#   TIME  for each, as in -fuzztime: 1m
#   NAME  a regular expression: only those whose name matches
set -euo pipefail
cd "$(dirname "$0")/.."

time=$1
name=${2:-.}

tests=$(grep -rEo --include='*_test.go' --exclude-dir=.cache '^func Fuzz\w*\(' . |
    sed -E 's|/[^/]*:func (\w+)\($| \1|' | awk -v name="$name" '$2 ~ name' | sort)
[ -n "$tests" ] || { echo "fuzz: there is no fuzz test that matches $name" >&2; exit 1; }

# What is new to the fuzzer it makes as small as it can, for a minute each unless
# told otherwise.
fuzz() { (cd "$1" && go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 1s .); }

# go before 1.27 can fail at the end of the time, when nothing was found:
# https://go.dev/issue/75804. What is found is written to a file.
found_nothing() { grep -qxF '    context deadline exceeded' "$1" && ! grep -qF 'Failing input written to' "$1"; }

out=$(mktemp)
trap 'rm -f "$out"' EXIT
failed=()
while read -r dir test; do
    echo "--- $test in $dir"
    if ! fuzz "$dir" "$test" </dev/null 2>&1 | tee "$out" && ! found_nothing "$out"; then
        failed+=("$test in $dir")
    fi
done <<<"$tests"

[ "${#failed[@]}" = 0 ] && exit
printf 'fuzz: %s has failed; mend it, and commit the input that it names\n' "${failed[@]}" >&2
exit 1
