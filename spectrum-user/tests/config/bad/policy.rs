//! Limits, time-outs, trust, and the tables that are not services.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "limits that are none",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
limits = { connections = 0, connections-per-source = -1, rate-per-source = "many", source-ipv4 = 33, source-ipv6 = 129 }
"#,
        problems: &[
            r#"5:26: service "a" limits.connections: 0: not a number from 1 to 4294967295"#,
            r#"5:54: service "a" limits.connections-per-source: -1: not a number from 1 to 4294967295"#,
            r#"5:76: service "a" limits.rate-per-source: "many": expected a number from 1 to 4294967295, found a string"#,
            r#"5:98: service "a" limits.source-ipv4: 33: not a number from 0 to 32"#,
            r#"5:116: service "a" limits.source-ipv6: 129: not a number from 0 to 128"#,
        ],
    },
    Bad {
        title: "sources of which nothing is limited",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
limits = { connections = 100, source-ipv4 = 24, source-ipv6 = 48 }
"#,
        problems: &[
            r#"5:45: service "a" limits.source-ipv4: 24: has no effect without a limit of each source; add connections-per-source or rate-per-source, or remove it"#,
            r#"5:63: service "a" limits.source-ipv6: 48: has no effect without a limit of each source; add connections-per-source or rate-per-source, or remove it"#,
        ],
    },
    Bad {
        title: "limits that are a number",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
limits = 10000
"#,
        problems: &[
            r#"5:10: service "a" limits: 10000: expected a table such as { connections = 10000 }, found an integer"#,
        ],
    },
    Bad {
        title: "a limit nobody knows",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
limits = { conections = 10 }
"#,
        problems: &[r#"5:12: service "a" limits.conections: unknown key; did you mean connections?"#],
    },
    Bad {
        title: "times that are none",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
timeouts = { connect = "none", idle = "never", half-closed = 30, lifetime = "0s", unacknowledged = "1year", keepalive = "10h" }
"#,
        problems: &[
            r#"5:24: service "a" timeouts.connect: "none": not a time; write it as in "5s", "1m 30s" or "250ms""#,
            r#"5:39: service "a" timeouts.idle: "never": not a time; write it as in "5s", "1m 30s" or "none""#,
            r#"5:62: service "a" timeouts.half-closed: 30: expected a time with its unit, such as "5s", found an integer: "30ms" if milliseconds are meant, "30s" if seconds are meant"#,
            r#"5:77: service "a" timeouts.lifetime: "0s": not a time from 1ms to 1year"#,
            r#"5:100: service "a" timeouts.unacknowledged: "1year": not a time from 1ms to 24days"#,
            r#"5:121: service "a" timeouts.keepalive: "10h": not a time from 1s to 9h"#,
        ],
    },
    Bad {
        title: "a timeout nobody knows",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
timeouts = { client = "10s" }
"#,
        problems: &[
            r#"5:14: service "a" timeouts.client: unknown key; expected connect, idle, half-closed, lifetime, unacknowledged or keepalive"#,
        ],
    },
    Bad {
        title: "a timeout in the service",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
idle = "10s"
"#,
        problems: &[r#"5:1: service "a" idle: unknown key; it belongs in timeouts of a service"#],
    },
    Bad {
        title: "trusted proxies that are none",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
trusted-proxies = ["10.0.0.1/8", "all"]
"#,
        problems: &[
            r#"5:20: service "a" trusted-proxies[0]: "10.0.0.1/8": host bits are set; write 10.0.0.0/8 for the whole prefix, or 10.0.0.1 for that address alone"#,
            r#"5:34: service "a" trusted-proxies[1]: "all": every address is 0.0.0.0/0 for IPv4 and ::/0 for IPv6, of which a binding takes those that the host has"#,
        ],
    },
    Bad {
        title: "no trusted proxies",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
trusted-proxies = []
"#,
        problems: &[
            r#"5:19: service "a" trusted-proxies: the list is empty; leave trusted-proxies out to trust nobody"#,
        ],
    },
    Bad {
        title: "limits of UDP",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", protocol = "udp" }]
respond = "echo"
limits = { connections = 10 }
"#,
        problems: &[
            r#"5:10: service "a" limits: is about TCP, of which the service has no binding; remove it"#,
        ],
    },
    Bad {
        title: "an admin that is an address",
        text: r#"admin = "127.0.0.1:9180"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
"#,
        problems: &[r#"1:9: admin: "127.0.0.1:9180": expected a table, [admin], found a string"#],
    },
    Bad {
        title: "an admin address without a port",
        text: r#"[admin]
listen = "127.0.0.1"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
"#,
        problems: &[r#"2:10: admin.listen: "127.0.0.1": the port is missing; write 127.0.0.1:PORT"#],
    },
    Bad {
        title: "a resolver with bad values",
        text: r#"[resolver]
servers = ["192.0.2.53", 53, "2001:db8::53:53", "resolver.example"]
timeout = "2"
server = "192.0.2.53:53"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
"#,
        problems: &[
            r#"2:12: resolver.servers[0]: "192.0.2.53": the port is missing; write 192.0.2.53:PORT"#,
            r#"2:26: resolver.servers[1]: 53: expected an address with a port such as "192.0.2.53:53", found an integer"#,
            r#"2:30: resolver.servers[2]: "2001:db8::53:53": an IPv6 address with a port stands in brackets; write [2001:db8::53]:53, or [2001:db8::53:53]:PORT if the port is missing"#,
            r#"2:49: resolver.servers[3]: "resolver.example": expected an address and a port, as in 192.0.2.7:8443 or [2001:db8::7]:8443"#,
            r#"3:11: resolver.timeout: "2": not a time; write it as in "5s", "1m 30s" or "250ms": "2s" if seconds are meant"#,
            "4:1: resolver.server: unknown key; did you mean servers?",
        ],
    },
    Bad {
        title: "a resolver with bounds that bind nothing, and local origins as a word",
        text: r#"[resolver]
addresses = 0
targets = 2000
min-ttl = "0s"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = "203.0.113.10"
local-origins = "yes"
[[service]]
name = "b"
bindings = [{ prefix = "192.0.3.0/24" }]
respond = "echo"
local-origins = true
"#,
        problems: &[
            "2:13: resolver.addresses: 0: not a number from 1 to 1024",
            "3:11: resolver.targets: 2000: not a number from 1 to 1024",
            r#"4:11: resolver.min-ttl: "0s": not a time from 1s to 5m"#,
            r#"9:17: service "a" local-origins: "yes": expected true or false, found a string"#,
            r#"14:17: service "b" local-origins: true: means nothing without origins; remove it, or add origins"#,
        ],
    },
];
