#!/bin/sh
# run.sh installed|packages BUILD SOURCE: is the installed tree enough for a stranger? Works in a new folder of its own, with an
# empty environment; a check that fails says what it ran, what it wanted and what came.
#
#   installed   installs, moves the tree, reads the manual pages, builds every program of examples/ against it (C by pkg-config, C++ by find_package), runs them
#   packages    builds the Debian packages, looks at their contents and dependencies, unpacks them and runs the tools from there
set -eu
verb=$1 build=$2 source=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "${BATON_CONSUMER:-}" ] || exec env -i BATON_CONSUMER=1 PATH="$PATH" HOME="$work" LC_ALL=C sh "$0" "$@"
cd "$work"

fail() { printf 'run.sh: %s\n' "$*" >&2; exit 1; }
# want TEXT COMMAND...: it succeeds, and a line of its output contains TEXT
want() {
  text=$1
  shift
  "$@" > out 2>&1 || { cat out >&2; fail "exit code $? of: $*"; }
  grep -qF -e "$text" out || { cat out >&2; fail "no '$text' in the output of: $*"; }
}
# none TEXT COMMAND...: no line of its output contains TEXT
none() {
  text=$1
  shift
  "$@" > out 2>&1 || true
  ! grep -F -e "$text" out >&2 || fail "'$text' in the output of: $*"
}
# Does the tree below PREFIX stand alone, and do its tools run?
run_tools() {
  none / grep -rlF "$source" "$1"  # no file knows where it came from
  want "libbaton.so.0 => $1/" ldd "$1/bin/devctl"
  want "emu+neuron://0" "$1/bin/devctl" list
  want "sram" "$1/bin/devctl" info emu+cs3://0
  want "same tokens" "$1/bin/baton" generate --check --stats --max-tokens 4 "It is a truth"
  want "wafer link" "$1/bin/baton-emu-cs3" --help
}

# options PROGRAM SUBCOMMAND...: every --option that it and the subcommands below print
options() {
  "$@" --help > help || fail "$* --help"
  grep -oE '^  (-[a-zA-Z],)?--[a-z][a-z0-9-]*' help | grep -oE -e '--.*'
  for sub in $(awk '/^[^ ]/ { inside = $0 == "Subcommands:" } inside && /^  [a-z]/ { print $1 }' help); do (options "$@" "$sub"); done
}
# Every program has a manual page, every option of it is there, and no formatter finds fault.
manual() {
  for tool in "$1"/bin/*; do
    page=$1/share/man/man1/$(basename "$tool").1
    [ -s "$page" ] || fail "no manual page of $tool"
    if command -v groff > /dev/null; then none : groff -mandoc -ww -z "$page"; fi
    if command -v mandoc > /dev/null; then none : mandoc -Tlint -Wwarning "$page"; fi
    options "$tool" | sort -u > printed
    grep -q -e --help printed || fail "$tool --help is not understood"
    for o in $(cat printed); do grep -qE "^\.It (Fl [a-zA-Z] , )?Fl $(echo "$o" | cut -c2-)( |\$)" "$page" || fail "$page lacks $o"; done
  done
}

installed() {
  cmake --install "$build" --prefix "$work/first" > log || fail "cmake --install: $(tail -n 3 log)"
  mv first moved
  prefix=$work/moved
  want "SONAME" readelf -d "$prefix/lib/libbaton.so"
  want "[libbaton.so.0]" readelf -d "$prefix/lib/libbaton.so"
  nm -D --defined-only "$prefix/lib/libbaton.so" | awk '$2 != "A" && $3 !~ /^baton_[a-z0-9_]*@@BATON_/ { print "exports " $3 }' > stray
  [ ! -s stray ] || fail "libbaton.so: $(cat stray)"
  run_tools "$prefix"
  manual "$prefix"

  strict="-O0 -Wall -Wextra -Werror -pedantic"
  cp -r "$prefix/share/baton/examples" examples
  (cd examples && sh new-driver.sh mydev)

  # C, by pkg-config
  export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
  want "0.1" pkg-config --modversion baton
  cc -std=c11 $strict examples/hello.c $(pkg-config --cflags --libs baton) -Wl,-rpath,"$(pkg-config --variable=libdir baton)" -o hello
  want "4096 of 4096 bytes are right" ./hello
  want "4096 of 4096 bytes are right" ./hello emu+cs3://0

  want "0.1" pkg-config --modversion baton-kv
  cc -std=c11 $strict examples/layout.c $(pkg-config --cflags --libs baton-kv) -Wl,-rpath,"$(pkg-config --variable=libdir baton)" -o layout
  want "moves into" ./layout "kv/1 layers=2 kv_heads=2 head_dim=64 blocks=9" '{"layers": 2, "kv_heads": 2, "head_dim": 64, "blocks": 3, "block_tokens": 64}'
  none "moves into" ./layout "kv/1 layers=2 kv_heads=2 head_dim=64 blocks=9" "kv/1 layers=2 kv_heads=2 head_dim=32 blocks=9"
  want "[libbaton-kv.so.0]" readelf -d "$prefix/lib/libbaton-kv.so"
  nm -D --defined-only "$prefix/lib/libbaton-kv.so" | awk '$2 != "A" && $3 !~ /^baton_kv_[a-z0-9_]*@@BATON_KV_/ { print "exports " $3 }' > stray
  [ ! -s stray ] || fail "libbaton-kv.so: $(cat stray)"
  if command -v python3 > /dev/null; then want True env PYTHONPATH="$prefix/lib/python3/dist-packages" python3 -c 'from baton import kv; print(kv.Layout(2, 2, 64, 9).nbytes > 0)'; fi

  # C++ and C, by find_package
  CXXFLAGS="$strict" CFLAGS="$strict" cmake -S examples -B b -G Ninja -DCMAKE_PREFIX_PATH="$prefix" > log 2>&1 || { cat log >&2; fail "cmake"; }
  cmake --build b > log 2>&1 || { cat log >&2; fail "the build of the examples"; }
  none / grep -rlF "$source" b  # no header or library came from elsewhere
  want "4096 of 4096 bytes are right" b/hello emu+neuron://0
  want "moves into" b/layout "kv/1 layers=2 kv_heads=2 head_dim=64 blocks=9" "kv/1 layers=2 kv_heads=2 head_dim=64 blocks=9 order=head_major"
  want "went over and back unchanged" b/copy
  want "equal bit for bit" b/disaggregated
  want "token 70 is where it belongs" b/hand_over
  want "over tcp" b/hand_over tcp

  # the same archive, by pkg-config
  c++ b/CMakeFiles/hand_over.dir/hand_over.cc.o $(pkg-config --libs baton-transport) -Wl,-rpath,"$prefix/lib" -o hand_over
  want "token 70 is where it belongs" ./hand_over

  # the driver that is a copy of the template: found by its scheme, and launches what it is given
  export BATON_DRIVER_PATH="$work/b/mydev"
  want "device mydev://" b/hello mydev://
  want "equal bit for bit" b/disaggregated mydev:// emu+cs3://0
  want "mydev0" "$prefix/bin/devctl" list
  want " 0 failed" b/conformance mydev:// 'memory.*'
}

# package NAME: the file of it, as built
package() { ls "$work"/packages/"$1"_*.deb; }
depends() { want "$2" dpkg-deb -f "$(package "$1")" Depends; }
contains() { want "$2" dpkg-deb -c "$(package "$1")"; }

packages() {
  cpack --config "$build/CPackConfig.cmake" -B "$work/packages" > log 2>&1 || { cat log >&2; fail "cpack"; }
  for f in lib/libbaton.so.0 lib/baton/libbaton-driver-cs3.so lib/baton/baton-emu-neuron lib/baton/emu/libnrt.so.1 lib/baton/timing/cs3.json lib/baton/machines/trn2.json; do
    contains libbaton0 "./usr/$f"
  done
  for f in include/baton/hal/baton.h include/baton/transport/kv_link.hpp include/baton/transport/baton_kv.h lib/libbaton.so lib/libbaton-kv.so lib/libbaton_transport.a lib/cmake/Baton/BatonConfig.cmake \
           lib/pkgconfig/baton.pc share/baton/examples/hello.c; do
    contains libbaton-dev "./usr/$f"
  done
  for f in bin/baton bin/devctl bin/baton-emu-cs3 share/man/man1/devctl.1 share/baton/models/baton-tiny/model.safetensors; do contains baton-tools "./usr/$f"; done
  contains libbaton-kv0 ./usr/lib/libbaton-kv.so.0
  for p in libbaton0 libbaton-kv0 libbaton-dev baton-tools; do
    contains $p "./usr/share/doc/$p/copyright"
    want "disaggregated inference" dpkg-deb -f "$(package $p)" Description
  done
  none ./usr/include dpkg-deb -c "$(package libbaton0)"
  depends libbaton0 libc6
  none fabric dpkg-deb -f "$(package libbaton0)" Depends  # the C ABI alone pulls in no fabric
  depends libbaton-kv0 "libbaton0 (= "
  depends libbaton-kv0 libfabric1
  depends libbaton-dev "libbaton0 (= "
  depends libbaton-dev "libbaton-kv0 (= "
  depends libbaton-dev libfabric1
  depends baton-tools "libbaton0 (= "
  depends baton-tools libfabric1
  want "libbaton 0 libbaton0 (>= " dpkg-deb -I "$(package libbaton0)" shlibs
  want ldconfig dpkg-deb -I "$(package libbaton0)" postinst

  mkdir unpacked
  for p in libbaton0 libbaton-kv0 libbaton-dev baton-tools; do dpkg -x "$(package $p)" unpacked; done
  run_tools "$work/unpacked/usr"
}

$verb
