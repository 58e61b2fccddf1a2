#!/bin/sh
# The first process of a guest: runs every test binary in /vmtest/tests, and speaks on the serial line the words that
# guest.rs listens for. The kernel hands it the variables of its command line.
export PATH=/usr/sbin:/usr/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
# A kernel without bpf(2) has no place for it.
[ ! -d /sys/fs/bpf ] || mount -t bpf bpf /sys/fs/bpf
# Each of these is what a host does with its first iptables rule; programs with few capabilities cannot.
modprobe -a ip_tables ip6_tables iptable_mangle ip6table_mangle 2> /dev/null
ip link set lo up
ulimit -n 65536
cd /vmtest || exit
echo "VMTEST start $(uname -r) $(cut -d' ' -f1 /proc/uptime)"
for test in tests/*; do
    echo "VMTEST binary ${test#tests/}"
    "$test" --test-threads "$VMTEST_THREADS" $VMTEST_ARGUMENTS
    echo "VMTEST ended ${test#tests/} $? $(cut -d' ' -f1 /proc/uptime)"
done
echo "VMTEST end"
poweroff -f
