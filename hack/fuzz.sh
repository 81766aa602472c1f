#!/usr/bin/env bash
# Runs each fuzz test of the repository for a time, as many at once as there are
# processors, and fails when one of them has found something. All "func Fuzz" of
# test files are found; there is no list.
#
# Usage: hack/fuzz.sh TIME [NAME]
#   TIME  for each, as in -fuzztime: 1m
#   NAME  a regular expression: only those whose name matches
set -euo pipefail
cd "$(dirname "$0")/.."

export time=$1
name=${2:-.}

tests=$(grep -rEo --include='*_test.go' --exclude-dir=.cache '^func Fuzz\w*\(' . |
    sed -E 's|/[^/]*:func (\w+)\($| \1|' | awk -v name="$name" '$2 ~ name' | sort)
[ -n "$tests" ] || { echo "fuzz: there is no fuzz test that matches $name" >&2; exit 1; }

# A few tests share the processors that there are.
count=$(wc -l <<<"$tests")
export workers=$((($(nproc) + count - 1) / count))

out=$(mktemp -d)
export out
trap 'rm -rf "$out"' EXIT

# fuzz runs one test, shows at its end what it has printed, and notes a failure.
# What is new to the fuzzer it makes as small as it can, for a minute each unless
# told otherwise.
# shellcheck disable=SC2317 # xargs calls it
fuzz() {
    local dir=$1 test=$2 log
    log=$(mktemp --tmpdir="$out")
    echo "--- $test in $dir" >"$log"
    if ! (cd "$dir" && go test -run '^$' -fuzz "^$test\$" -fuzztime "$time" -fuzzminimizetime 1s -parallel "$workers" .) >>"$log" 2>&1 &&
        ! found_nothing "$log"; then
        echo "fuzz: $test in $dir has failed; mend it, and commit the input that it names" >>"$out/failed"
    fi
    flock "$out" cat "$log"
}

# go before 1.27 can fail at the end of the time, when nothing was found:
# https://go.dev/issue/75804. What is found is written to a file.
# shellcheck disable=SC2317
found_nothing() { grep -qxF '    context deadline exceeded' "$1" && ! grep -qF 'Failing input written to' "$1"; }

export -f fuzz found_nothing
xargs -P "$(nproc)" -L 1 bash -c 'fuzz "$@"' fuzz <<<"$tests"

[ ! -e "$out/failed" ] && exit
cat "$out/failed" >&2
exit 1
