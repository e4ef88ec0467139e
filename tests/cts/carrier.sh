#!/bin/sh
# carrier.sh DAEMON CARRIER CTS [ARGUMENT...]: a wafer daemon of its own, and the suites against it over that carrier (shm, tcp); then the daemon's own
# word for it that every session came by that one. A session over tcp that comes before a shm one is its handshake.
set -eu
daemon=$1 carrier=$2 cts=$3
shift 3
out=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null || true; rm -rf "$out"' EXIT
"$daemon" --listen 127.0.0.1:0 --verbose >"$out/uri" 2>"$out/sessions" &
pid=$!
while ! [ -s "$out/uri" ]; do kill -0 "$pid"; sleep 0.05; done
uri=$(head -n 1 "$out/uri")
"$cts" "$@" "$uri?carrier=$carrier"
by=$(grep -c "^session .* by $carrier:" "$out/sessions" || true)
echo "$by sessions by $carrier"
[ "$by" -gt 10 ]
[ "$carrier" = shm ] || ! grep "^session .* by shm:" "$out/sessions"
