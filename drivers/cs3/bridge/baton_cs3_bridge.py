#!/usr/bin/env python3
"""baton-cs3-bridge: the wafer link (TCP) on one side, the vendor's SdkRuntime on the other. Runs under cs_python on a CS-3's host.

    cs_python baton_cs3_bridge.py --listen 0.0.0.0:9010 --cmaddr $CS_IP_ADDR:9000 --artifacts ./artifacts

Then cs3://HOST:9010 is a device of Baton's. See README.md."""

from __future__ import annotations

import argparse
import importlib
import os
import random
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import link  # noqa: E402
import session  # noqa: E402
import wafer  # noqa: E402

VENDOR = "cerebras.sdk.runtime.sdkruntimepybind"
HELLO_SECONDS = 5.0


class Bridge:
    """Accepts clients; one at a time has the system, as one job has it."""

    def __init__(self, sdk, options):
        self.sdk, self.options = sdk, options
        self.instance = random.SystemRandom().getrandbits(64)
        self.taken = threading.Lock()
        host, _, port = options.listen.rpartition(":")
        self.listener = socket.create_server((host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.emulated = not options.cmaddr or bool(getattr(sdk, "EMULATED", False))

    def uri(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"cs3://{'[' + host + ']' if ':' in host else host}:{port}"

    def welcome(self, code: int = 0, text: bytes = b"") -> bytes:
        return link.Welcome(magic=link.MAGIC, major=link.MAJOR, minor=link.MINOR, code=code, text=text[:255], capabilities=link.CAP_RECTANGLES | link.CAP_PORTS,
                            instance=self.instance, epoch=1, pid=os.getpid(), emulated=self.emulated).pack()

    def greet(self, connection: socket.socket) -> None:
        wire = link.Wire(connection)
        held = False
        try:
            connection.settimeout(HELLO_SECONDS)
            if wire.read(8) != link.MAGIC:
                return  # not for us: no answer
            hello = link.Hello.unpack(link.MAGIC + wire.read(link.Hello.size() - 8))
            if hello.major != link.MAJOR:
                what = f"the client speaks wafer link {hello.major}.{hello.minor}, this side {link.MAJOR}.{link.MINOR} (the bridge)"
                return wire.write(self.welcome(link.VERSION, f"{what}\ninstall the bridge and the driver from one release".encode()))
            if hello.hello_bytes != link.Hello.size() or hello.carrier > 1:
                return
            held = self.taken.acquire(blocking=False)
            if not held:
                return wire.write(self.welcome(link.BUSY, b"another client has the system, and a job owns it alone\nclose that client first"))
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.write(self.welcome())
            client = session.Session(wire, wafer.Wafer(self.sdk, self.options.cmaddr, self.options.artifacts), capacity=int(self.options.sram_gb * 1e9),
                                     emulated=self.emulated, firmware="baton-cs3-bridge, " + self.sdk.__name__)
            why = client.serve(self.options.grace)
            if self.options.verbose:
                print(f"client {hello.pid} ended: {why}", file=sys.stderr, flush=True)
        except link.Gone:
            pass
        except session.Stuck as e:
            print(f"baton-cs3-bridge: {e}\nnext: start the bridge again; see the kernel of the program that ran last", file=sys.stderr, flush=True)
            os._exit(7)  # as devctl's: lost
        finally:
            if held:
                self.taken.release()
            wire.close()

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.greet, args=(connection,), daemon=True).start()


def main() -> int:
    p = argparse.ArgumentParser(description="The wafer link on one side, SdkRuntime on the other.")
    p.add_argument("--listen", default="127.0.0.1:9010", help="HOST:PORT for Baton's driver; port 0: any that is free")
    p.add_argument("--cmaddr", default="", help="IP:PORT of the system; none: the vendor's simulator")
    p.add_argument("--artifacts", required=True, help="folder of compiled artifacts, each named by its program's SHA-256")
    p.add_argument("--sdk", default=VENDOR, help=f"module with SdkRuntime (default {VENDOR})")
    p.add_argument("--sram-gb", type=float, default=44.0, help="SRAM in gigabytes, for the account (default 44)")
    p.add_argument("--grace", type=float, default=60.0, help="seconds for what a client left running; then the bridge ends, and with it the job (default 60)")
    p.add_argument("--verbose", action="store_true", help="clients on stderr")
    options = p.parse_args()
    try:
        sdk = importlib.import_module(options.sdk)
        bridge = Bridge(sdk, options)
    except (ImportError, OSError, ValueError) as e:
        print(f"baton-cs3-bridge: {e}\nnext: run it with cs_python, and a free HOST:PORT in --listen", file=sys.stderr)
        return 1
    print(bridge.uri(), flush=True)
    try:
        bridge.serve()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
