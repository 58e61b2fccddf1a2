//! Elements of `bindings`: prefixes, protocols and ports.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "no prefix",
        text: r#"[[service]]
name = "a"
bindings = [{ ports = 80 }]
respond = "hello"
"#,
        problems: &[
            r#"3:13: service "a" bindings[0].prefix: missing; add the addresses, for instance prefix = "192.0.2.0/24""#,
        ],
    },
    Bad {
        title: "an empty list of prefixes",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = [] }]
respond = "hello"
"#,
        problems: &[r#"3:24: service "a" bindings[0].prefix: the list is empty; name at least one prefix"#],
    },
    Bad {
        title: "a prefix with host bits",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.1/24" }]
respond = "hello"
"#,
        problems: &[
            r#"3:24: service "a" bindings[0].prefix: "192.0.2.1/24": host bits are set; write 192.0.2.0/24 for the whole prefix, or 192.0.2.1 for that address alone"#,
        ],
    },
    Bad {
        title: "a mapped prefix",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "::ffff:192.0.2.0/120" }]
respond = "hello"
"#,
        problems: &[
            r#"3:24: service "a" bindings[0].prefix: "::ffff:192.0.2.0/120": IPv4-mapped IPv6 is refused, its packets are IPv4; write 192.0.2.0/24"#,
        ],
    },
    Bad {
        title: "a prefix too long",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/33" }]
respond = "hello"
"#,
        problems: &[
            r#"3:24: service "a" bindings[0].prefix: "192.0.2.0/33": prefix length "33" is not a number from 0 to 32"#,
        ],
    },
    Bad {
        title: "a prefix that is a name",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "example.com" }]
respond = "hello"
"#,
        problems: &[
            r#"3:24: service "a" bindings[0].prefix: "example.com" is not an IP address (expected something like 192.0.2.0/24 or 2001:db8::/64)"#,
        ],
    },
    Bad {
        title: "a multicast prefix",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "224.0.0.0/4" }]
respond = "hello"
"#,
        problems: &[
            r#"3:24: service "a" bindings[0].prefix: "224.0.0.0/4": multicast addresses cannot be steered to a listener"#,
        ],
    },
    Bad {
        title: "a prefix that is a number",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = 7 }]
respond = "hello"
"#,
        problems: &[
            r#"3:24: service "a" bindings[0].prefix: 7: expected a prefix such as "192.0.2.0/24", found an integer"#,
        ],
    },
    Bad {
        title: "several bad prefixes of a list",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = [
  "192.0.2.1/24",
  "192.0.2.0/24",
  "2001:db8::1/64",
  true,
] }]
respond = "hello"
"#,
        problems: &[
            r#"4:3: service "a" bindings[0].prefix[0]: "192.0.2.1/24": host bits are set; write 192.0.2.0/24 for the whole prefix, or 192.0.2.1 for that address alone"#,
            r#"6:3: service "a" bindings[0].prefix[2]: "2001:db8::1/64": host bits are set; write 2001:db8::/64 for the whole prefix, or 2001:db8::1 for that address alone"#,
            r#"7:3: service "a" bindings[0].prefix[3]: true: expected a prefix such as "192.0.2.0/24", found a boolean"#,
        ],
    },
    Bad {
        title: "a list in a list of prefixes",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = [["192.0.2.0/24"]] }]
respond = "hello"
"#,
        problems: &[
            r#"3:25: service "a" bindings[0].prefix[0]: expected a prefix such as "192.0.2.0/24", found a list"#,
        ],
    },
    Bad {
        title: "a plural prefix",
        text: r#"[[service]]
name = "a"
bindings = [{ prefixes = ["192.0.2.0/24"] }]
respond = "hello"
"#,
        problems: &[r#"3:15: service "a" bindings[0].prefixes: unknown key; did you mean prefix?"#],
    },
    Bad {
        title: "a protocol that is none",
        text: r#"[[service]]
name = "a"
bindings = [{ protocol = "sctp", prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[r#"3:26: service "a" bindings[0].protocol: "sctp": expected tcp, udp or both"#],
    },
    Bad {
        title: "a protocol in capitals",
        text: r#"[[service]]
name = "a"
bindings = [{ protocol = "TCP", prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"3:26: service "a" bindings[0].protocol: "TCP": expected tcp, udp or both; did you mean tcp?"#,
        ],
    },
    Bad {
        title: "a list of protocols",
        text: r#"[[service]]
name = "a"
bindings = [{ protocol = ["tcp", "udp"], prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"3:26: service "a" bindings[0].protocol: expected "tcp", "udp" or "both", found a list"#,
        ],
    },
    Bad {
        title: "a short key",
        text: r#"[[service]]
name = "a"
bindings = [{ proto = "tcp", prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[r#"3:15: service "a" bindings[0].proto: unknown key; did you mean protocol?"#],
    },
    Bad {
        title: "an empty range",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "9-3" }]
respond = "hello"
"#,
        problems: &[
            r#"3:48: service "a" bindings[0].ports: "9-3": the range is empty, its first port is greater than its last; did you mean 3-9?"#,
        ],
    },
    Bad {
        title: "port zero",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = 0 }]
respond = "hello"
"#,
        problems: &[
            r#"3:48: service "a" bindings[0].ports: 0: for every port leave ports out, or write 1-65535"#,
        ],
    },
    Bad {
        title: "port zero as text",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "0" }]
respond = "hello"
"#,
        problems: &[
            r#"3:48: service "a" bindings[0].ports: "0": for every port leave ports out, or write 1-65535"#,
        ],
    },
    Bad {
        title: "a port too great",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = 70000 }]
respond = "hello"
"#,
        problems: &[r#"3:48: service "a" bindings[0].ports: port "70000" is not a number from 1 to 65535"#],
    },
    Bad {
        title: "a negative port",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = -80 }]
respond = "hello"
"#,
        problems: &[r#"3:48: service "a" bindings[0].ports: port "-80" is not a number from 1 to 65535"#],
    },
    Bad {
        title: "a port that is a fraction",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = 80.5 }]
respond = "hello"
"#,
        problems: &[
            r#"3:48: service "a" bindings[0].ports: 80.5: expected a port or a text such as "80,8000-8100", found a float"#,
        ],
    },
    Bad {
        title: "a port that is a name",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "http" }]
respond = "hello"
"#,
        problems: &[r#"3:48: service "a" bindings[0].ports: port "http" is not a number from 1 to 65535"#],
    },
    Bad {
        title: "ports that are no text",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = true }]
respond = "hello"
"#,
        problems: &[
            r#"3:48: service "a" bindings[0].ports: true: expected a port or a text such as "80,8000-8100", found a boolean"#,
        ],
    },
    Bad {
        title: "an empty text of ports",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "" }]
respond = "hello"
"#,
        problems: &[r#"3:48: service "a" bindings[0].ports: port "" is not a number from 1 to 65535"#],
    },
    Bad {
        title: "a comma too many",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "80," }]
respond = "hello"
"#,
        problems: &[r#"3:48: service "a" bindings[0].ports: "80,": port "" is not a number from 1 to 65535"#],
    },
    Bad {
        title: "an empty list of ports",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = [] }]
respond = "hello"
"#,
        problems: &[
            r#"3:48: service "a" bindings[0].ports: the list is empty; leave ports out to bind all of them"#,
        ],
    },
    Bad {
        title: "a port twice",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "80,443,80" }]
respond = "hello"
"#,
        problems: &[r#"3:48: service "a" bindings[0].ports: "80,443,80": 80 is given twice; remove one"#],
    },
    Bad {
        title: "ranges that overlap",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = ["1-100", "50-200"] }]
respond = "hello"
"#,
        problems: &[
            r#"3:58: service "a" bindings[0].ports[1]: "50-200": 1-100 and 50-200 overlap; write each port once, or one range within the other"#,
        ],
    },
];
