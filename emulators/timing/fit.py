#!/usr/bin/env python3
"""fit.py: fits the constants of cs3.json whose source begins with "fitted" to the cases of cs3_cases.json that are marked so.

    python3 emulators/timing/fit.py build/release/lib/baton/baton-emu-cs3 [LIMIT]

Every evaluation is the program's own (--calibration json): there is no second formula here. Minimized is the mean plus the median of the
fitted cases' errors, with a steep price on those over LIMIT (0.17), by Nelder-Mead from the constants that the file has. The result is printed;
put it into cs3.json by hand, rounded, and the new table into emulators/cs3/README.md. About two minutes."""
import json
import pathlib
import subprocess
import sys
import tempfile

FILE = pathlib.Path(__file__).with_name("cs3.json")


def nelder_mead(f, start, rounds):
    points = [list(start)] + [[v * (1.25 if i == j else 1) for j, v in enumerate(start)] for i in range(len(start))]
    values = [f(p) for p in points]
    for _ in range(rounds):
        order = sorted(range(len(points)), key=lambda i: values[i])
        points, values = [points[i] for i in order], [values[i] for i in order]
        centre = [sum(p[i] for p in points[:-1]) / (len(points) - 1) for i in range(len(start))]
        towards = lambda t: [c + t * (w - c) for c, w in zip(centre, points[-1])]
        tried = [(f(p), p) for p in [towards(-1)]]
        if tried[0][0] < values[0]:
            tried.append((f(towards(-2)), towards(-2)))
        elif tried[0][0] >= values[-2]:
            tried = [(f(towards(0.5)), towards(0.5))]
        best = min(tried, key=lambda t: t[0])
        if best[0] < values[-1]:
            values[-1], points[-1] = best
        else:
            points = points[:1] + [[(a + b) / 2 for a, b in zip(points[0], p)] for p in points[1:]]
            values = values[:1] + [f(p) for p in points[1:]]
    best = min(range(len(points)), key=lambda i: values[i])
    return points[best], values[best]


def main():
    emulator, limit = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.17
    model = json.loads(FILE.read_text())
    names = [n for n, c in model["constants"].items() if c["source"].startswith("fitted")]
    with tempfile.TemporaryDirectory() as folder:
        tried = pathlib.Path(folder) / "tried.json"

        def table(constants):
            for name, value in zip(names, constants):
                model["constants"][name]["value"] = abs(value) + 1e-9  # a rate may not be 0
            tried.write_text(json.dumps(model))
            return json.loads(subprocess.run([emulator, "--calibration", "json", "--timing", str(tried)], capture_output=True, text=True, check=True).stdout)

        def price(constants):
            errors = sorted(abs(c["error"]) for c in table(constants)["cases"] if c["fitted"])
            median = (errors[len(errors) // 2] + errors[(len(errors) - 1) // 2]) / 2
            return sum(errors) / len(errors) + median + 30 * sum(max(0, e - limit) for e in errors)

        found, paid = nelder_mead(price, [model["constants"][n]["value"] for n in names], 150)
        result = table(found)
    for name, value in zip(names, found):
        print(f"{name:16} {abs(value):10.3f}")
    print(f"price {paid:.4f}, median {100 * result['median_error']:.1f}%, worst {100 * result['worst_error']:.1f}% of all cases")


if __name__ == "__main__":
    main()
