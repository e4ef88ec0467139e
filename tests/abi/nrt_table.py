"""The symbols of the emulated libnrt.so.1 against tests/abi/nrt.table, and the table against drivers/neuron/nrt_abi.hpp.

    nrt_table.py TABLE LIBRARY HEADER     0: they agree; 1: each difference, one line

A row is: name, family, presence (exported: in the library, absent: known and left out, ours: exported, not the runtime's), version, source.
"""

import re
import subprocess
import sys

PRESENCE = ("exported", "absent", "ours")


def rows(path):
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.startswith("#"):
                fields = line.split(None, 4)
                if len(fields) != 5 or fields[2] not in PRESENCE:
                    sys.exit(f"{path}:{number}: a row is: name family {'|'.join(PRESENCE)} version source")
                yield fields[0], fields[2], fields[3]


def exported(library):
    listing = subprocess.run(["nm", "-D", "--defined-only", "--with-symbol-versions", library], check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        name, _, version = line.split()[-1].partition("@@")
        if version and name != version:
            yield name, version


def main():
    table, library, header = sys.argv[1:4]
    found, wrong, seen = dict(exported(library)), [], set()
    for name, presence, version in rows(table):
        if name in seen:
            wrong.append(f"{name} has two rows")
        seen.add(name)
        if presence == "absent" and name in found:
            wrong.append(f"{name} is exported, the table says absent")
        if presence != "absent" and name not in found:
            wrong.append(f"{name} is not exported, the table says {presence}")
        elif presence != "absent" and found[name] != version:
            wrong.append(f"{name} has version {found[name]}, the table says {version}")
        if presence == "exported":
            found.setdefault(name, version)
    wrong += [f"{name} is exported and has no row" for name in found if name not in seen]
    with open(header, encoding="utf-8") as file:
        declared = set(re.findall(r"\b(nrt_\w+|baton_emu_\w+)\(", file.read()))
    wrong += [f"{name} is declared in {header} and not exported" for name in sorted(declared - set(found))]
    wrong += [f"{name} is exported and not declared in {header}" for name in sorted(set(found) - declared)]
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
