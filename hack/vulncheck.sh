#!/usr/bin/env bash
# Looks for known vulnerabilities in what the driver is made of, with
# govulncheck and the Go vulnerability database, or the one that GOVULNDB names
# (a mirror, or file:// and a directory).
#
# Where the database cannot be reached nothing is known, and that is no fault of
# the code: a line says so, and the check counts as passed. With
# SNAPDRIVER_REQUIRE_VULNDB=1, as for a release, it counts as failed.
#
# Usage: hack/vulncheck.sh GOVULNCHECK [PACKAGE ...]
set -euo pipefail

check=$1
database=${GOVULNDB:-https://vuln.go.dev}
shift

exec 3>&1 # the findings; errors are looked at
status=0
errors=$("$check" -db "$database" "${@:-./...}" 2>&1 >&3) || status=$?
[ -z "$errors" ] || printf '%s\n' "$errors" >&2
# The request itself failed: no name, no connection, no certificate. An answer
# that is not the database's is an error like any other.
if [ "$status" != 0 ] && grep -qF "fetching vulnerabilities: Get \"$database/" <<<"$errors"; then
    echo "vulncheck: NOT CHECKED for known vulnerabilities: $database cannot be reached (GOVULNDB may name another)" >&2
    [ "${SNAPDRIVER_REQUIRE_VULNDB:-}" = 1 ] || exit 0
fi
exit "$status"
