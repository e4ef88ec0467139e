#!/usr/bin/env python3
"""vm.py: runs programs of the build tree in a virtual machine that has a soft-RoCE device (rdma_rxe).

The machine is Debian's stock kernel (fetch_kernel.sh) and an initramfs made now: busybox, the programs with the libraries that they load, each at
the path that it has here, libibverbs' rxe provider, the modules. It shares nothing with this machine but two files that it writes: the
console and the output. By default it runs in QEMU's software emulation, which is there on every machine, also inside of another one.

    vm.py --kernel build/vm/kernel --out build/release/vm/verbs --env K=V... --file PROGRAM... -- SCRIPT

Exit status: the script's; 77 (skipped) with the reason where QEMU or the kernel is missing; 1 if the machine ended without saying how.
"""
import argparse
import os
import re
import shutil
import stat
import subprocess
import sys
import time

SKIP = 77
BOOT_SECONDS = 150  # 4 on a quiet machine


class Cpio:
    """A cpio archive as the kernel reads it ("newc", Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self, path):
        self.file = open(path, "wb")
        self.names = set()

    def _put(self, name, mode, data):
        head = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        entry = b"070701" + b"".join(b"%08X" % x for x in head) + name.encode() + b"\0"
        entry += b"\0" * (-len(entry) % 4)
        self.file.write(entry + data + b"\0" * (-len(data) % 4))

    def folder(self, name):
        name = name.strip("/")
        if not name or name in self.names:
            return
        self.folder(os.path.dirname(name))
        self.names.add(name)
        self._put(name, stat.S_IFDIR | 0o755, b"")

    def file_of(self, name, data, mode=0o755):
        name = name.strip("/")
        if name in self.names:
            return
        self.folder(os.path.dirname(name))
        self.names.add(name)
        self._put(name, stat.S_IFREG | mode, data)

    def close(self):
        self._put("TRAILER!!!", 0, b"")
        self.file.close()


def libraries(path):
    """What the dynamic loader would load for it, the loader included; nothing for a static program or a script."""
    out = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    return re.findall(r"(?:=> )?(/\S+) \(0x", out)


def make_initramfs(path, a, script):
    here = os.path.dirname(os.path.abspath(__file__))
    cpio = Cpio(path)
    for folder in ("bin", "dev", "proc", "sys", "tmp", "root"):
        cpio.folder(folder)

    def add(file, name=None):
        with open(file, "rb") as f:
            cpio.file_of(name or os.path.abspath(file), f.read())

    add(shutil.which("busybox"), "/bin/busybox")
    add(os.path.join(here, "init.sh"), "/init")
    for m in ["order"] + open(os.path.join(a.kernel, "modules/order")).read().split():
        add(os.path.join(a.kernel, "modules", m), "/modules/" + m)
    programs = [shutil.which("rdma") or "/usr/bin/rdma"] + a.file
    add(programs[0], "/bin/rdma")
    provider = find_provider()
    add("/etc/libibverbs.d/rxe.driver")
    for file in programs + [provider] + loaded():
        for lib in libraries(file):
            add(lib)
        add(file)
    cpio.file_of("/etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
    cpio.file_of("/test.sh", script.encode())
    cpio.close()


def loaded():
    """What programs load by name as they run, where the loader finds it: libfabric (transport/ofi_library.cc)."""
    cache = subprocess.run([shutil.which("ldconfig") or "/sbin/ldconfig", "-p"], capture_output=True, text=True).stdout
    return re.findall(r"libfabric\.so\.1 .*x86-64.* => (/\S+)", cache)


def find_provider():
    for base in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"):
        folder = os.path.join(base, "libibverbs")
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            if name.startswith("librxe-"):
                return os.path.join(folder, name)
    return None


def missing(a):
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not installed"
    if not os.path.exists(os.path.join(a.kernel, "complete")):
        return "no kernel in %s ('./dev test' fetches it, or tests/vm/fetch_kernel.sh)" % a.kernel
    if not shutil.which("busybox") or "statically linked" not in subprocess.run(["file", "-L", shutil.which("busybox")], capture_output=True, text=True).stdout:
        return "no static busybox (Debian: busybox-static)"
    if not (shutil.which("rdma") or os.path.exists("/usr/bin/rdma")):
        return "no rdma tool (Debian: iproute2)"
    if not find_provider() or not os.path.exists("/etc/libibverbs.d/rxe.driver"):
        return "libibverbs has no provider for rxe (Debian: ibverbs-providers)"
    return None


def boot(a, initramfs):
    console, output = os.path.join(a.out, "console.log"), os.path.join(a.out, "output.log")
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", a.memory, "-smp", "2"]
    command += ["-accel", "kvm", "-cpu", "host"] if a.kvm else ["-accel", "tcg,thread=multi", "-cpu", "max"]
    command += ["-kernel", os.path.join(a.kernel, "vmlinuz"), "-initrd", initramfs, "-serial", "file:" + console, "-serial", "file:" + output]
    command += ["-append", "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check random.trust_cpu=on mitigations=off nokaslr"]
    with open(os.path.join(a.out, "qemu.log"), "w") as log:
        begin = time.monotonic()
        p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ended = "did not end within %d s" % a.timeout
        try:
            while p.poll() is None and time.monotonic() - begin < a.timeout:
                time.sleep(0.2)
                if time.monotonic() - begin > BOOT_SECONDS and "VM-READY" not in read(a, "output.log"):
                    ended = "did not boot within %d s" % BOOT_SECONDS
                    break
            else:
                ended = "ended" if p.poll() is not None else ended
        finally:
            p.kill()
            p.wait()
    return ended, time.monotonic() - begin, "KVM" if a.kvm else "software emulation"


def read(a, name):
    try:
        return open(os.path.join(a.out, name), errors="replace").read().replace("\r\n", "\n")
    except OSError:
        return ""


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--kernel", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--file", nargs="*", default=[], help="programs and data that the script uses")
    p.add_argument("--memory", default="1536M")
    p.add_argument("--timeout", type=int, default=380)
    p.add_argument("--kvm", action="store_true", help="not software emulation")
    p.add_argument("--env", nargs="*", default=[], metavar="NAME=VALUE")
    p.add_argument("script", help="a file: shell script, run in the guest as root")
    a = p.parse_args()
    why = missing(a)
    if why:
        print("skipped: " + why)
        return SKIP
    os.makedirs(a.out, exist_ok=True)
    for old in ("console.log", "output.log"):
        if os.path.exists(os.path.join(a.out, old)):
            os.remove(os.path.join(a.out, old))
    initramfs = os.path.join(a.out, "initramfs")
    script = "".join("export %s='%s'\n" % tuple(e.split("=", 1)) for e in a.env) + open(a.script).read()
    make_initramfs(initramfs, a, script)
    size = os.path.getsize(initramfs)
    # A kernel whose timers are starved while it measures them may stop there: that is no finding, so once more.
    for _ in range(2):
        ended, seconds, how = boot(a, initramfs)
        if "VM-READY" in read(a, "output.log"):
            break
    os.remove(initramfs)
    output = read(a, "output.log")
    print(output.rstrip())
    status = re.findall(r"^VM-EXIT (\d+)$", output, re.M)
    print("vm: %.1f s under %s, initramfs %d MiB" % (seconds, how, size >> 20))
    if status:
        return int(status[-1])
    print("vm: the machine %s and did not say how the test went; the console's end:\n%s\n%s" % (ended, read(a, "console.log")[-3000:], read(a, "qemu.log")[-1000:]))
    return 1


if __name__ == "__main__":
    sys.exit(main())
