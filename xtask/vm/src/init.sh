#!/bin/sh
# The first process of a guest: runs every test binary in /vmtest/tests, and speaks on the serial line the words that
# guest.rs listens for. The kernel hands it the variables of its command line.
export PATH=/usr/sbin:/usr/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
echo "VMTEST start $(uname -r) $(cut -d' ' -f1 /proc/uptime)"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
# A kernel without bpf(2) has no place for it.
[ ! -d /sys/fs/bpf ] || mount -t bpf bpf /sys/fs/bpf
# All modules there are, at once: the kernel would load them when they are needed, but busybox reports one as loaded that
# another process is still loading, and programs with few capabilities cannot do what iptables-legacy does itself.
for module in /lib/modules/*/*.ko; do
    module=${module##*/}
    modprobe "${module%.ko}" 2> /dev/null
done
ip link set lo up
ulimit -n 65536
cd /vmtest || exit
for test in tests/*; do
    echo "VMTEST binary ${test#tests/}"
    ${VMTEST_REFUSED:+./refuse refuse "$VMTEST_REFUSED" --} "$test" --test-threads "$VMTEST_THREADS" $VMTEST_ARGUMENTS
    echo "VMTEST ended ${test#tests/} $? $(cut -d' ' -f1 /proc/uptime)"
done
echo "VMTEST end"
poweroff -f
