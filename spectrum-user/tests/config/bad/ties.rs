//! Bindings that tie, and many problems at once.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "one prefix twice in a list",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = [
  "192.0.2.0/24",
  "192.0.2.0/24",
] }]
respond = "hello"
"#,
        problems: &[
            r#"5:3: service "a" bindings[0].prefix[1]: tcp 192.0.2.0/24 1-65535: service "a" binds the same in line 4; remove one"#,
        ],
    },
    Bad {
        title: "one binding in two elements",
        text: r#"[[service]]
name = "a"
bindings = [
  { prefix = "192.0.2.0/24", ports = 80 },
  { prefix = "192.0.2.0/24", ports = "80,81" },
]
respond = "hello"
"#,
        problems: &[
            r#"5:14: service "a" bindings[1].prefix: tcp 192.0.2.0/24 80: service "a" binds the same in line 4; remove one"#,
        ],
    },
    Bad {
        title: "overlapping bindings of two services",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "1-100" }]
respond = "hello"

[[service]]
name = "b"
bindings = [{ prefix = "192.0.2.0/24", ports = "50-200" }]
respond = "hello"
"#,
        problems: &[
            r#"8:24: service "b" bindings[0].prefix: tcp 192.0.2.0/24 50-200: overlaps with ports 1-100 of service "a" in line 3; one range must be narrower and lie within the other"#,
        ],
    },
    Bad {
        title: "a tie told where the later binding stands",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24", ports = "50-200" }]
respond = "hello"

[[service]]
name = "b"
bindings = [{ prefix = "192.0.2.0/24", ports = "1-100" }]
respond = "hello"
"#,
        problems: &[
            r#"8:24: service "b" bindings[0].prefix: tcp 192.0.2.0/24 1-100: overlaps with ports 50-200 of service "a" in line 3; one range must be narrower and lie within the other"#,
        ],
    },
    Bad {
        title: "both protocols tie once",
        text: r#"[[service]]
name = "a"
bindings = [
  { protocol = "both", prefix = "192.0.2.0/24" },
  { protocol = "both", prefix = "192.0.2.0/24" },
]
respond = "echo"
"#,
        problems: &[
            r#"5:33: service "a" bindings[1].prefix: tcp 192.0.2.0/24 1-65535: service "a" binds the same in line 4; remove one"#,
        ],
    },
    Bad {
        title: "a tie with a service that has no name",
        text: r#"[[service]]
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"1:1: service[0] name: missing; name the service, for instance name = "games""#,
            r#"6:24: service "a" bindings[0].prefix: tcp 192.0.2.0/24 1-65535: service[0] binds the same in line 2; remove one"#,
        ],
    },
    Bad {
        title: "everything at once",
        text: r#"[dispatcher]
mode = "fast"

[[service]]
name = "a b"
bindings = [
  { prefix = "192.0.2.1/24", ports = "9-3" },
  { prefix = "192.0.2.0/24", port = 80 },
]
origins = [""]

[[service]]
name = "b"
bindings = [{ prefix = "192.0.2.0/24" }]
"#,
        problems: &[
            r#"2:8: dispatcher.mode: "fast": expected auto, sk-lookup or tproxy"#,
            r#"5:8: service[0] name: "a b": a service name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit"#,
            r#"7:14: service[0] bindings[0].prefix: "192.0.2.1/24": host bits are set; write 192.0.2.0/24 for the whole prefix, or 192.0.2.1 for that address alone"#,
            r#"7:38: service[0] bindings[0].ports: "9-3": the range is empty, its first port is greater than its last; did you mean 3-9?"#,
            "8:30: service[0] bindings[1].port: unknown key; did you mean ports?",
            r#"10:12: service[0] origins[0]: "" is neither an IP address nor a host name"#,
            r#"12:1: service "b": nothing answers; add origins = ["203.0.113.10"] or respond = "hello""#,
        ],
    },
];
