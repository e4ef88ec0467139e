#!/bin/sh
# devctl_session.sh BUILD [README]: a request is stuck, as one rail swallows what it is given and one channel of the wafer is slow. Prints what an operator
# sees who knows nothing but devctl; with README puts it there, between the lines that name this script.
#
# The stage is real programs: an emulated wafer, a prefill and a decode worker over two addresses of the loopback as rails, one request.
set -eu
bin=$(cd "$1/bin" && pwd); readme=${2-}
dir=$(mktemp -d); here=$(cd "$(dirname "$0")/../.." && pwd)
export BATON_RUN_DIR="$dir/run" XDG_RUNTIME_DIR="$dir" BATON_SYSFS_ROOT="$dir/sys" BATON_MODEL="$here/models/baton-tiny"
export PATH="$bin:$PATH"
mkdir -m 700 "$dir/run"; cd "$dir"
pids=
end() { for p in $pids; do kill "$p" 2>/dev/null || :; done; devctl emu down all >/dev/null 2>&1 || :; wait; rm -rf "$dir"; }
trap end EXIT
trap 'exit 1' INT TERM
# until WHAT COMMAND...: within two minutes, however busy this machine is
until_() { what=$1; shift; for _ in $(seq 600); do if "$@" >/dev/null 2>&1; then return; fi; sleep 0.2; done; echo "devctl_session.sh: not in two minutes: $what" >&2; cat ./*.log >&2; exit 1; }
worker() { # ROLE DEVICE RAILS
  baton worker --role "$1" --device "$2" --listen 127.0.0.1:0 --key-file key --rails "$3" --fabric tcp --lease-ms 10000 >"$1.log" 2>&1 &
  pids="$pids $!"; eval "$1_pid=$!"
}
address() { grep -o 'baton://127[0-9.:]*' "$1.log" | head -1; }

baton keygen key >keygen.log
devctl emu up emu+cs3://0 --name w0 >up.log
worker decode "$(tail -1 up.log)" 127.0.0.1,127.0.0.2
BATON_FABRIC_FAULTS=mute=127.0.0.2; export BATON_FABRIC_FAULTS
worker prefill host:// 127.0.0.1,127.0.0.2
unset BATON_FABRIC_FAULTS
until_ "workers are ready" grep -q ready decode.log
until_ "workers are ready" grep -q ready prefill.log
devctl emu fault w0 '{"slow_channels": {"5": 1000000}}' >fault.log
baton generate "$(head -c 700 "$here/README.md")" --prefill "$(address prefill)" --decode "$(address decode)" --key-file key --fabric tcp --lease-ms 10000 --max-tokens 8 >answer.log 2>&1 &
request=$!; pids="$pids $request"
# exit code 1: there are findings
both_() { devctl health >seen.log || :; grep -q '^error  rail' seen.log && grep -q 'is slow' seen.log && grep -q 'nothing has ended' seen.log; }
until_ "the request is stuck" both_

run() { printf '$ %s\n' "$*"; "$@" 2>&1 || :; }
{
  run devctl
  run devctl health
  run devctl emu fault w0 --clear
  # What health says of the rail, done: the worker is started anew, without what was planned for it.
  wait "$request" || { echo "devctl_session.sh: the request failed" >&2; cat answer.log >&2; exit 1; }
  kill "$prefill_pid"; wait "$prefill_pid" || :
  worker prefill host:// 127.0.0.1,127.0.0.2
  until_ "the worker is ready again" grep -q ready prefill.log
  run devctl health
} >session.txt
[ -s answer.log ]
if [ -z "$readme" ]; then cat session.txt; exit; fi
awk -v text=session.txt '
  /^<!-- devctl_session.sh -->$/ { print; print "```console"; while ((getline line < text) > 0) print line; print "```"; skip = 1; next }
  /^<!-- end of devctl_session.sh -->$/ { skip = 0 }
  !skip { print }' "$here/$readme" >new.md
cp new.md "$here/$readme"
