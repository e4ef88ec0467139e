#!/bin/sh
# Makes a NEFF, runs it with the C program, and a damaged one too.   run.sh MAKE_NEFF CLIENT FILE
set -eu
"$1" "$3"
said=$("$2" "$3")
[ "$said" = "0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30" ] || { echo "the client says: $said"; exit 1; }
printf x | dd of="$3" bs=1 seek=2100 conv=notrunc 2>/dev/null
if said=$("$2" "$3" 2>&1); then echo "a damaged file ran"; exit 1; fi
[ "$said" = "nrt_load: status 2" ] || { echo "of a damaged file the client says: $said"; exit 1; }
