#!/bin/sh
# Runs govulncheck where its data is reachable, and says so where it is not:
# govulncheck.sh GO PACKAGE@VERSION
set -u
out=$("$1" run "$2" ./... 2>&1)
code=$?
case $out in
*vuln.go.dev*) echo "govulncheck: its data is not reachable from here; not run"; exit 0 ;;
esac
echo "$out"
exit $code
