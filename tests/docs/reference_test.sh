#!/bin/sh
# reference_test.sh SOURCE OUT: the reference is made without a warning, and a member without documentation would be one.
set -eu
cd "$1"
out=$2
command -v doxygen >/dev/null || { echo "no doxygen: skipped (./dev docs installs it)"; exit 77; }
rm -rf "$out"
mkdir -p "$out/bad/hal"
export BATON_VERSION=test
BATON_DOCS_OUT="$out" doxygen cmake/Doxyfile || { echo "the reference has warnings: document what is named above"; exit 1; }
grep -q 'baton_timeline_wait' "$out/html/baton_8h.html" || { echo "baton_timeline_wait is not in the reference"; exit 1; }
grep -q 'Between devices' "$out/html/index.html" || { echo "the guide is not the main page"; exit 1; }

# The check checks: a function without a comment is a warning.
sed 's|^typedef struct baton_instance baton_instance;.*|&\nBATON_API void baton_undocumented(void);|' hal/baton.h > "$out/bad/hal/baton.h"
(cat cmake/Doxyfile; echo "INPUT = $out/bad/hal/baton.h"; echo "USE_MDFILE_AS_MAINPAGE =") > "$out/bad/Doxyfile"
if BATON_DOCS_OUT="$out/bad" doxygen "$out/bad/Doxyfile" > "$out/bad/log" 2>&1 || ! grep -q baton_undocumented "$out/bad/log"; then
  cat "$out/bad/log"
  echo "an undocumented function is not reported"
  exit 1
fi
