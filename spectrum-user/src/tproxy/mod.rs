//! The rules in the kernel: iptables and ip6tables. Decides nothing about what they say.
