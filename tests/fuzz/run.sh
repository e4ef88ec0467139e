#!/bin/sh
# run.sh BUILD [--seconds N] [TARGET...] [-- libFuzzer's flags]: what `./dev fuzz` runs, from the source folder.
#
# Each target fuzzes for N seconds (60) with two jobs, from a copy of its corpus. What reaches code that the corpus does not is merged into
# tests/fuzz/corpus, minimised. An input that breaks something stays in BUILD/crashes, and the exit code is 1.
set -eu
build=$1
shift
seconds=60
targets=""
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2; shift ;;
    --) shift; break ;;
    -*) echo "fuzz: unknown option $1" >&2; echo "next: ./dev fuzz [--seconds N] [TARGET...] [-- libFuzzer's flags]" >&2; exit 2 ;;
    *) targets="$targets $1" ;;
  esac
  shift
done
[ -n "$targets" ] || targets=$(cd "$build/targets" && for t in fuzz_*; do echo "${t#fuzz_}"; done)
for t in $targets; do
  [ -x "$build/targets/fuzz_$t" ] && continue
  echo "fuzz: no target '$t'" >&2
  echo "next: one of $(cd "$build/targets" && for f in fuzz_*; do printf '%s ' "${f#fuzz_}"; done)" >&2
  exit 2
done
limits="-rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=10"  # as fuzz.cmake's
number() { sed -n "s/^stat::$1: *//p" "$2" | awk '{ sum += $1 } END { print sum + 0 }'; }
bad=0
for t in $targets; do
  corpus=tests/fuzz/corpus/$t
  work=$build/run/$t
  rm -rf "$work"
  mkdir -p "$work/corpus" "$work/merged" "$build/crashes"
  cp "$corpus"/* "$work/corpus/"
  # Each job is a process with a corpus in common; found files go into it.
  for job in 1 2; do
    "$build/targets/fuzz_$t" -max_total_time="$seconds" -reload=1 -max_len=16384 -print_final_stats=1 $limits \
      -artifact_prefix="$build/crashes/$t-" "$@" "$work/corpus" > "$work/log.$job" 2>&1 || echo $? > "$work/failed.$job" &
  done
  wait
  cat "$work"/log.* > "$work/log"
  # The merge keeps of the old files all, of the new ones those that reach an edge that none before them does, the smallest first.
  cp "$corpus"/* "$work/merged/"
  before=$(ls "$corpus" | wc -l)
  "$build/targets/fuzz_$t" -merge=1 -use_counters=0 -max_len=2048 -rss_limit_mb=1024 -timeout=10 "$work/merged" "$work/corpus" > "$work/merge.log" 2>&1 || true
  cp "$work/merged"/* "$corpus/"
  covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$work/log" | sort -n | tail -1)
  printf '%-14s %9s inputs run, %5s edges covered, %3s added to %s\n' "$t" "$(number number_of_executed_units "$work/log")" "${covered:-?}" \
    "$(($(ls "$corpus" | wc -l) - before))" "$corpus"
  if [ -e "$work/failed.1" ] || [ -e "$work/failed.2" ]; then
    bad=1
    grep -hE '^SUMMARY|broken:|runtime error' "$work/log" | sort -u | head -4 | sed "s/^/  $t: /"
    for f in $(sed -n 's/.*Test unit written to //p' "$work/log" | sort -u); do
      echo "  $t: $f"
      echo "  next: $build/targets/fuzz_$t $f; once corrected, keep it as $corpus/regression-WHAT"
    done
  fi
done
exit $bad
