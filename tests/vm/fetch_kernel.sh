#!/bin/sh
# fetch_kernel.sh FOLDER: Debian's stock kernel and the modules that tests/vm needs, into FOLDER/kernel; nothing where they are already.
# The package is unpacked and not installed: installing one writes /boot and runs the hooks of initramfs-tools and boot loaders.
set -eu
mkdir -p "$1"
cd "$1"
# In the order of loading. rdma_rxe asks for "crc32" by name: its implementations first. What is missing here is part of the kernel.
modules="configfs crc32_generic crc32-pclmul udp_tunnel ip6_udp_tunnel ib_core ib_uverbs iw_cm ib_cm rdma_cm rdma_ucm rdma_rxe dummy veth sch_netem"
[ "$(cat kernel/complete 2>/dev/null)" != "$modules" ] || exit 0
command -v apt-get >/dev/null || { echo "fetch_kernel: no apt-get here" >&2; exit 1; }
# linux-image-amd64 names the image of the moment; only that one has files.
package=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
[ -n "$package" ] || { echo "fetch_kernel: apt knows no linux-image-amd64" >&2; exit 1; }
rm -rf kernel package
mkdir -p kernel/modules package
(cd package && apt-get download -qq "$package" >&2 && dpkg -x ./*.deb unpacked)
cp package/unpacked/boot/vmlinuz-* kernel/vmlinuz
for m in $modules; do
  file=$(find package/unpacked/lib/modules -name "$m.ko")
  [ -z "$file" ] || { cp "$file" kernel/modules/ && echo "$m.ko" >> kernel/modules/order; }
done
rm -rf package
echo "$modules" > kernel/complete
