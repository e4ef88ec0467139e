#!/usr/bin/env python3
"""abi.py: what a header and its library (baton.h and libbaton.so, baton_kv.h and libbaton-kv.so) promise to binaries, as a table; compared with the table that was recorded at a version.

    abi.py print   --header hal/baton.h --library libbaton.so                    the facts of today
    abi.py check   --header ... --library ... --table tests/abi/v1.table         0: nothing moved; 1: each break, one line
    abi.py record  --header ... --library ... --table tests/abi/v1.table         appends what has grown since; never changes a line

The header is parsed for names and types, a C11 program made from them is compiled to measure, `nm` lists the symbols. What may change:
functions, types, structs, enumerators (above the last) and arms of a union are added; a struct whose first field is `struct_size` grows
at its end, beyond what it measured before. Nothing that is recorded moves, changes its type or goes away."""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile


def squeeze(text):
    return re.sub(r"\s*([*,()])\s*", r"\1", re.sub(r"\s+", " ", text.strip())).replace(",", ", ")


def without_comments(text):
    return re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", " ", text, flags=re.S))


def signature(result, params):
    """'int32_t(baton_device*, uint64_t)': the names of parameters may change."""
    kinds = [re.sub(r"^(.*[\s*])\w+$", r"\1", p.strip()).strip() for p in params.split(",")]
    return squeeze(result) + "(" + ", ".join(squeeze(k) for k in kinds) + ")"


def fields(body, prefix=""):
    """(path, type) of each field of a struct's or union's body; those of nested ones by their path: u.copy.src."""
    at = 0
    while True:
        nested = re.compile(r"\s*(?:struct|union)\s*\{").match(body, at)
        if nested:
            depth, end = 1, nested.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(body[end], 0)
                end += 1
            name = re.compile(r"\s*(\w+)\s*;").match(body, end)
            yield from fields(body[nested.end():end - 1], prefix + name[1] + ".")
            at = name.end()
            continue
        end = body.find(";", at)
        if end < 0:
            return
        text = " ".join(body[at:end].split())
        at = end + 1
        slot = re.match(r"(.*?)\(\s*\*\s*(\w+)\s*\)\s*\((.*)\)$", text)
        if slot:
            yield prefix + slot[2], signature(slot[1], slot[3])
            continue
        base, names = re.match(r"((?:const )?\w+\s*\**)\s*(.*)$", text).groups()
        for name in names.split(","):
            plain = re.match(r"\s*(\w+)\s*(\[\w+\])?$", name)
            yield prefix + plain[1], squeeze(base) + (plain[2] or "")


def parse(header):
    text = without_comments(pathlib.Path(header).read_text())
    h = {"macros": re.findall(r"^\s*#define (BATON_\w+) (\d+u?|UINT64_MAX)\s*$", text, re.M),
         "texts": re.findall(r'^\s*#define (BATON_\w+) ("\w+")\s*$', text, re.M),
         "enums": [], "structs": [], "functions": [], "types": []}
    for body, name in re.findall(r"typedef enum \w+ \{(.*?)\}\s*(\w+);", text, re.S):
        h["enums"] += [(name, e) for e in re.findall(r"\b(BATON_\w+)\b\s*(?:=|,|$)", body)]
    for m in re.finditer(r"^typedef struct (\w+) \{(.*?)^\}\s*\1;", text, re.S | re.M):
        h["structs"].append((m[1], list(fields(m[2]))))
    h["opaque"] = re.findall(r"^typedef struct (\w+) \1;", text, re.M)
    for result, name, params in re.findall(r"^BATON_API (.*?)\b(baton_\w+)\(([^;]*)\);", text, re.M | re.S):
        h["functions"].append((name, signature(result, params)))
    for result, name, params in re.findall(r"^typedef ([^;{}]*?)\(\*(baton_\w+)\)\(([^;]*)\);", text, re.M | re.S):
        h["types"].append((name, signature(result, params)))
    # What the patterns above do not see would be promised to nobody: count by the plainest means.
    seen = len(h["structs"]) + len(h["opaque"]) + len(h["types"]) + len({e for e, _ in h["enums"]})
    assert seen == len(re.findall(r"^typedef\b", text, re.M)), f"{header}: {seen} typedefs understood, there are more"
    assert len(h["functions"]) == len(re.findall(r"^BATON_API\b", text, re.M)), f"{header}: a function is not understood"
    return h


def measure(header, h, cc):
    """Sizes, offsets and values, by a C11 program: {key: numbers}."""
    lines = ['#include <stdio.h>', f'#include "{pathlib.Path(header).resolve()}"', "int main(void) {"]
    for name, _ in h["macros"]:
        lines.append(f'  printf("{name} %llu\\n", (unsigned long long)({name}));')
    for _, name in h["enums"]:
        lines.append(f'  printf("{name} %lld\\n", (long long){name});')
    for s, members in h["structs"]:
        lines.append(f'  printf("{s} %zu %zu\\n", sizeof({s}), _Alignof({s}));')
        for path, _ in members:
            lines.append(f'  printf("{s}.{path} %zu %zu\\n", offsetof({s}, {path}), sizeof((({s}*)0)->{path}));')
    lines += ["  return 0;", "}", ""]
    with tempfile.TemporaryDirectory() as folder:
        source, program = folder + "/facts.c", folder + "/facts"
        pathlib.Path(source).write_text("\n".join(lines))
        root = str(pathlib.Path(header).resolve().parent.parent)  # headers include each other as "hal/baton.h"
        subprocess.run([cc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-I", root, source, "-o", program], check=True)
        out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {key: " ".join(rest) for key, *rest in (line.split() for line in out.splitlines())}


def facts(header, library, cc):
    """The table: {"field baton_op.u.copy.src": "offset 48 size 8 baton_buffer*", ...}."""
    h = parse(header)
    m = measure(header, h, cc)
    t = {f"macro {name}": m[name] for name, _ in h["macros"]}
    t.update({f"macro {name}": text for name, text in h["texts"]})
    t.update({f"enum {enum}.{name}": m[name] for enum, name in h["enums"]})
    t.update({f"opaque {name}": "handle" for name in h["opaque"]})
    t.update({f"type {name}": text for name, text in h["types"]})
    for s, members in h["structs"]:
        size, align = m[s].split()
        t[f"struct {s}"] = f"size {size} align {align}" + (" grows" if members[0][0] == "struct_size" else "")
        for path, kind in members:
            offset, size = m[f"{s}.{path}"].split()
            t[f"field {s}.{path}"] = f"offset {offset} size {size} {kind}"
    t.update({f"function {name}": text for name, text in h["functions"]})
    if library:
        out = subprocess.run(["nm", "-D", "--defined-only", "--with-symbol-versions", library], check=True, capture_output=True, text=True)
        for _, kind, name in (line.split() for line in out.stdout.splitlines()):
            if kind != "A":
                t["symbol " + name.split("@")[0]] = name.split("@")[-1]
    return t


def number(text, word):
    return int(re.search(word + r" (\d+)", text)[1])


def compare(then, now):
    """Every way in which `now` breaks what `then` promised, a line each."""
    breaks = []
    for key, was in then.items():
        kind, name = key.split()
        if key not in now:
            breaks.append(f"{kind} {name} is gone (it was: {was})")
        elif now[key] == was:
            continue
        elif kind == "struct" and was.endswith("grows"):
            if now[key].split()[2:] != was.split()[2:] or number(now[key], "size") < number(was, "size"):
                breaks.append(f"struct {name}: was {was}, is {now[key]}")
        else:
            breaks.append(f"{kind} {name}: was {was}, is {now[key]}")
    for key, text in now.items():
        kind, name = key.split()
        if key in then:
            continue
        owner = name.split(".")[0]
        if kind == "field" and f"struct {owner}" in then:
            breaks += field_added(then, owner, name, text)
        if kind == "enum":
            last = max((int(v) for k, v in then.items() if k.startswith(f"enum {owner}.")), default=-1)
            if int(text) <= last:
                breaks.append(f"enum {name} = {text} is new: it must be above {last}, the last of {owner}")
    return breaks


def field_added(then, struct, name, text):
    was = then[f"struct {struct}"]
    if was.endswith("grows"):
        if number(text, "offset") >= number(was, "size"):
            return []
        return [f"field {name} is new at {text}: {struct} was {number(was, 'size')} bytes, and an older caller's struct_size covers that "
                "offset: add fields at the end, pad before them if need be"]
    arm = name.rsplit(".", 1)[0]
    if "." in arm and not any(k.startswith(f"field {arm}.") for k in then):
        return []  # a new arm of a union; that the struct keeps its size is checked
    return [f"field {name} is new at {text}: {struct} has no struct_size and must not change"]


def exports(now):
    """The header and the library name the same functions."""
    declared = {k.split()[1] for k in now if k.startswith("function ")}
    exported = {k.split()[1] for k in now if k.startswith("symbol ")}
    return [f"function {n} is declared but the library does not export it" for n in sorted(declared - exported)] + \
           [f"symbol {n} is exported but the header does not declare it" for n in sorted(exported - declared)]


def read_table(path):
    lines = pathlib.Path(path).read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("verb", choices=["print", "check", "record"])
    p.add_argument("--header", required=True)
    p.add_argument("--library")
    p.add_argument("--table")
    p.add_argument("--cc", default="cc")
    a = p.parse_args()
    now = facts(a.header, a.library, a.cc)
    if a.verb == "print":
        print("\n".join(f"{k}: {v}" for k, v in now.items()))
        return 0
    then = read_table(a.table)
    broken = compare(then, now) + (exports(now) if a.library else [])
    for line in broken:
        print("abi:", line, file=sys.stderr)
    if broken:
        print(f"next: undo it; what {a.table} records is in binaries that nobody compiles again", file=sys.stderr)
        return 1
    grown = {k: v for k, v in now.items() if k not in then}
    if a.verb == "record" and grown:
        with open(a.table, "a") as f:
            f.write("\n".join(f"{k}: {v}" for k, v in grown.items()) + "\n")
    print(f"{len(then)} facts hold, {len(grown)} are new" + (f" and {'now' if a.verb == 'record' else 'not yet'} recorded: " +
                                                          ", ".join(grown) if grown else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
