#!/usr/bin/env python3
"""Writes nfc_tables.inc from Python's Unicode database. Run by hand when a newer Unicode is wanted:
    python3 tools/model/nfc_tables.py > tools/model/nfc_tables.inc"""
import unicodedata

decompositions, classes = [], []
for c in range(0x110000):
    if 0xAC00 <= c <= 0xD7A3 or 0xD800 <= c <= 0xDFFF:  # Hangul is computed; surrogates are no characters
        continue
    d = unicodedata.decomposition(chr(c))
    if d and not d.startswith("<"):
        parts = [int(x, 16) for x in d.split()] + [0]
        composes = unicodedata.normalize("NFC", chr(c)) == chr(c)
        decompositions.append("{0x%X,0x%X,0x%X,%d}," % (c, parts[0], parts[1], composes))
    k = unicodedata.combining(chr(c))
    if k:
        if classes and classes[-1][1] == c - 1 and classes[-1][2] == k:
            classes[-1][1] = c
        else:
            classes.append([c, c, k])


def emit(head, items):
    print(head)
    line = ""
    for item in items:
        if len(line) + len(item) > 128:
            print(line)
            line = ""
        line += item
    print(line)
    print("};")


print("// Unicode %s, written by nfc_tables.py." % unicodedata.unidata_version)
emit("constexpr Decomposition kDecompositions[] = { // code, first, second (0: none), whether NFC composes it again", decompositions)
emit("constexpr CombiningRange kCombining[] = { // first, last, canonical combining class", ["{0x%X,0x%X,%d}," % tuple(r) for r in classes])
