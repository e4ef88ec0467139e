#!/bin/busybox sh
# init.sh: process 1 of the guest. Two soft-RoCE devices over dummy networks, then the test's script; its exit status goes to the second serial
# port, which is what vm.py reads. Nothing here outlives the virtual machine.
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin LANG=C HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp # not a mount over /tmp: the programs lie where they lay on the host, which may be there
mount -t tmpfs tmpfs /dev/shm
exec >/dev/ttyS1 2>&1 </dev/null
end() { echo "VM-EXIT $1"; sync; sleep 0.2; reboot -f; }
while read -r m; do insmod "/modules/$m" || echo "insmod $m failed"; done < /modules/order
ip link set lo up
ip link set dummy0 mtu 4200 # room for RoCE's path MTU of 4096 and its headers
ip addr add 10.77.0.1/24 dev dummy0
ip link set dummy0 up
rdma link add rxe0 type rxe netdev dummy0 || end 99
# A second one, for rails.
ip link add dummy1 type dummy || end 98
ip link set dummy1 mtu 4200
ip addr add 10.78.0.1/24 dev dummy1
ip link set dummy1 up
rdma link add rxe1 type rxe netdev dummy1 || end 97
echo "VM-READY $(cut -d' ' -f1 /proc/uptime) s, $(uname -r), $(cat /sys/class/infiniband/rxe0/ports/1/state)"
/bin/sh /test.sh
end $?
