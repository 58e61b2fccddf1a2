//! Origins and what goes with them.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "an origin that its own service binds",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "80,443" }]
origins = ["203.0.113.10", "192.0.2.10:443"]
"#,
        problems: &[
            r#"4:11: service "a" origins: 192.0.2.10:443 is bound by the service itself, on port 443 for one: connections would come back without end; name an address or a port that it does not bind"#,
        ],
    },
    Bad {
        title: "services that dial each other in a circle",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "80,443" }]
origins = ["198.51.100.1:80", "203.0.113.10"]

[[service]]
name = "b"
bindings = [{ prefix = "198.51.100.0/24", ports = "80" }]
origins = ["192.0.2.10"]
"#,
        problems: &[
            "4:11: connections would go round without end: origin 198.51.100.1:80 of service a is bound by service b, origin 192.0.2.10 of service b is bound by service a; give one of them an address or a port that none of these services binds",
        ],
    },
    Bad {
        title: "an origin that stands there twice",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = [
  "203.0.113.10:80", "203.0.113.10", "203.0.113.10:81", "[2001:db8::1]:80", "a.example",
  "203.0.113.10:80", { origin = "A.example.", weight = 3 }, { origin = "2001:db8::1", backup = true },
  "[2001:DB8:0::1]:80",
]
"#,
        problems: &[
            r#"6:3: service "a" origins[5]: 203.0.113.10:80 stands in line 5 already; name it once, with a weight if it is to get more: { origin = "203.0.113.10:80", weight = 2 }"#,
            r#"6:22: service "a" origins[6]: A.example. stands in line 5 already; name it once, with a weight if it is to get more: { origin = "A.example.", weight = 2 }"#,
            r#"7:3: service "a" origins[8]: "[2001:DB8:0::1]:80": [2001:db8::1]:80 stands in line 5 already; name it once, with a weight if it is to get more: { origin = "[2001:db8::1]:80", weight = 2 }"#,
        ],
    },
    Bad {
        title: "origins that are no server's address",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["0.0.0.0:80", "[::]:80", "224.0.0.1", "255.255.255.255", "::ffff:203.0.113.10", "[fe80::1%eth0]:80"]
"#,
        problems: &[
            r#"4:12: service "a" origins[0]: "0.0.0.0:80": 0.0.0.0 is no server's address; for this host write 127.0.0.1 or ::1"#,
            r#"4:26: service "a" origins[1]: "[::]:80": :: is no server's address; for this host write 127.0.0.1 or ::1"#,
            r#"4:37: service "a" origins[2]: "224.0.0.1": 224.0.0.1 is no server's address but that of many"#,
            r#"4:50: service "a" origins[3]: "255.255.255.255": 255.255.255.255 is no server's address but that of many"#,
            r#"4:69: service "a" origins[4]: "::ffff:203.0.113.10": ::ffff:203.0.113.10 is an IPv4-mapped address; write 203.0.113.10"#,
            r#"4:92: service "a" origins[5]: "[fe80::1%eth0]:80": fe80::1 holds on one link only, and none can be named; write an address that does not"#,
        ],
    },
    Bad {
        title: "a range of origin ports that is shorter than the binding's",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10:80-90"]
"#,
        problems: &[
            r#"4:12: service "a" origins[0]: "203.0.113.10:80-90": 80-90 has 11 ports and the binding of 1-65535 has 65535; an offset needs ranges of the same length"#,
        ],
    },
    Bad {
        title: "a range of origin ports for bindings that overlap",
        text: r#"[[service]]
name = "a"
bindings = [
  { prefix = "192.0.2.0/24", ports = "1000-1010" },
  { prefix = "192.0.2.7", ports = "1005-1015" },
]
origins = ["203.0.113.10:3000-3010"]
"#,
        problems: &[
            r#"7:12: service "a" origins[0]: "203.0.113.10:3000-3010": the bindings of 1000-1010 and 1005-1015 overlap, so that an offset into 3000-3010 could be counted from either; give one of them to a service of its own"#,
        ],
    },
    Bad {
        title: "an origin's range the wrong way round",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10:90-80"]
"#,
        problems: &[
            r#"4:12: service "a" origins[0]: "203.0.113.10:90-80": the range is empty, its first port is greater than its last; did you mean 80-90?"#,
        ],
    },
    Bad {
        title: "a service name with a port",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["_http._tcp.example.com:80"]
"#,
        problems: &[
            r#"4:12: service "a" origins[0]: "_http._tcp.example.com:80": the SRV records of a service name say the port; leave it out"#,
        ],
    },
    Bad {
        title: "origins that are all backups",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = [{ origin = "203.0.113.10", backup = true }]
"#,
        problems: &[r#"4:11: service "a" origins: all origins are backups; leave backup = true out of one"#],
    },
    Bad {
        title: "an origin's table without an origin",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = [{ weight = 2 }]
"#,
        problems: &[
            r#"4:12: service "a" origins[0].origin: missing; add the server, for instance origin = "203.0.113.10""#,
        ],
    },
    Bad {
        title: "an origin's table with a misspelt key",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = [{ orign = "203.0.113.10", wait = 2 }]
"#,
        problems: &[
            r#"4:14: service "a" origins[0].orign: unknown key; did you mean origin?"#,
            r#"4:38: service "a" origins[0].wait: unknown key; expected origin, weight or backup"#,
        ],
    },
    Bad {
        title: "weights that are none",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = [{ origin = "203.0.113.10", weight = -1 }, { origin = "203.0.113.11", weight = 257 }, { origin = "203.0.113.12", weight = "2" }]
"#,
        problems: &[
            r#"4:48: service "a" origins[0].weight: -1: not a number from 0 to 256"#,
            r#"4:90: service "a" origins[1].weight: 257: not a number from 0 to 256"#,
            r#"4:133: service "a" origins[2].weight: "2": expected a number from 0 to 256, found a string"#,
        ],
    },
    Bad {
        title: "a backup that is a word",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10", { origin = "203.0.113.11", backup = "yes" }]
"#,
        problems: &[r#"4:64: service "a" origins[1].backup: "yes": expected true or false, found a string"#],
    },
    Bad {
        title: "an unknown balance",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10"]
balance = "roundrobin"
"#,
        problems: &[
            r#"5:11: service "a" balance: "roundrobin": expected round-robin, least-connections or source-hash; did you mean round-robin?"#,
        ],
    },
    Bad {
        title: "a health check without a port",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10"]
health = {}
"#,
        problems: &[
            r#"5:10: service "a" health: 203.0.113.10 has no port of its own to check; say which, for instance { port = 80 }"#,
        ],
    },
    Bad {
        title: "a health check that is a word",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10:80"]
health = "tcp"
"#,
        problems: &[
            r#"5:10: service "a" health: "tcp": expected a table such as { interval = "5s" }, found a string"#,
        ],
    },
    Bad {
        title: "a unique id that nobody would be told",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10:80"]
proxy-header = "v1"
unique-id = true
"#,
        problems: &[
            r#"6:13: service "a" unique-id: true: means nothing without proxy-header = "v2", which tells it; add that, or remove it"#,
        ],
    },
    Bad {
        title: "a check that is closed otherwise, or so that its header is lost",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10:80"]
health = { close = "rst" }

[[service]]
name = "b"
bindings = [{ prefix = "198.51.100.0/24" }]
origins = ["203.0.113.10:80"]
proxy-header = "v2"
health = { close = "reset" }
"#,
        problems: &[
            r#"5:20: service "a" health.close: "rst": expected fin or reset"#,
            r#"12:10: service "b" health.close: a reset would overtake the PROXY header of a check; leave it out, or give checks a port of their own: { close = "reset", port = 80 }"#,
        ],
    },
    Bad {
        title: "a health check with bad values",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10:80"]
health = { interval = "1ms", timeout = 2, rise = 0, fall = 1001, port = 0, every = "5s" }
"#,
        problems: &[
            r#"5:23: service "a" health.interval: "1ms": not a time from 100ms to 1h"#,
            r#"5:40: service "a" health.timeout: 2: expected a time with its unit, such as "5s", found an integer: "2s" if seconds are meant"#,
            r#"5:50: service "a" health.rise: 0: not a number from 1 to 1000"#,
            r#"5:60: service "a" health.fall: 1001: not a number from 1 to 1000"#,
            r#"5:73: service "a" health.port: 0: not a number from 1 to 65535"#,
            r#"5:76: service "a" health.every: unknown key; expected interval, timeout, rise, fall, port or close"#,
        ],
    },
    Bad {
        title: "an ejection with bad values",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10:80"]
ejection = { failures = 0, time = "2h" }
"#,
        problems: &[
            r#"5:25: service "a" ejection.failures: 0: not a number from 1 to 1000"#,
            r#"5:35: service "a" ejection.time: "2h": not a time from 1s to 1h"#,
        ],
    },
    Bad {
        title: "a PROXY header of an unknown version",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10"]
proxy-header = "v3"
"#,
        problems: &[r#"5:16: service "a" proxy-header: "v3": expected v1 or v2; did you mean v1?"#],
    },
    Bad {
        title: "transparent as a word",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10"]
transparent = "yes"
"#,
        problems: &[r#"5:15: service "a" transparent: "yes": expected true or false, found a string"#],
    },
    Bad {
        title: "clients that none of the origins has an address for",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["[2001:db8::1]:80", "2001:db8::2"]
transparent = true

[[service]]
name = "b"
bindings = [{ prefix = "2001:db8:7::/64" }]
origins = ["203.0.113.10"]
transparent = true
"#,
        problems: &[
            r#"5:15: service "a" transparent: true: clients of ipv4 bindings cannot be spoken for to origins of ipv6, and there are no others; add an origin of ipv4, or remove it"#,
            r#"11:15: service "b" transparent: true: clients of ipv6 bindings cannot be spoken for to origins of ipv4, and there are no others; add an origin of ipv6, or remove it"#,
        ],
    },
    Bad {
        title: "keys of origins without origins",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "echo"
balance = "round-robin"
health = { port = 80 }
ejection = {}
proxy-header = "v2"
transparent = true
"#,
        problems: &[
            r#"5:11: service "a" balance: "round-robin": means nothing without origins; remove it, or add origins"#,
            r#"6:10: service "a" health: means nothing without origins; remove it, or add origins"#,
            r#"7:12: service "a" ejection: means nothing without origins; remove it, or add origins"#,
            r#"8:16: service "a" proxy-header: "v2": means nothing without origins; remove it, or add origins"#,
            r#"9:15: service "a" transparent: true: means nothing without origins; remove it, or add origins"#,
        ],
    },
];
