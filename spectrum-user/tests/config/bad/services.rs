//! Services: names, keys, and what answers.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "no name",
        text: r#"[[service]]
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[r#"1:1: service[0] name: missing; name the service, for instance name = "games""#],
    },
    Bad {
        title: "an empty name",
        text: r#"[[service]]
name = ""
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"2:8: service[0] name: "": a service name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit"#,
        ],
    },
    Bad {
        title: "a name with a blank",
        text: r#"[[service]]
name = "a b"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"2:8: service[0] name: "a b": a service name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit"#,
        ],
    },
    Bad {
        title: "a name that begins with a hyphen",
        text: r#"[[service]]
name = "-a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"2:8: service[0] name: "-a": a service name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit"#,
        ],
    },
    Bad {
        title: "a name too long",
        text: r#"[[service]]
name = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"2:8: service[0] name: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…": a service name is 1 to 64 letters, digits, '-', '_' and '.', and begins with a letter or digit"#,
        ],
    },
    Bad {
        title: "a name that is a number",
        text: r#"[[service]]
name = 7
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["2:8: service[0] name: 7: expected a string, found an integer"],
    },
    Bad {
        title: "a name twice",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"

[[service]]
name = "a"
bindings = [{ prefix = "198.51.100.0/24" }]
respond = "hello"
"#,
        problems: &[r#"7:8: service "a" name: "a": line 2 has a service of this name; rename one"#],
    },
    Bad {
        title: "a name three times",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
[[service]]
name = "a"
bindings = [{ prefix = "198.51.100.0/24" }]
respond = "hello"
[[service]]
name = "a"
bindings = [{ prefix = "203.0.113.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"6:8: service "a" name: "a": line 2 has a service of this name; rename one"#,
            r#"10:8: service "a" name: "a": line 2 has a service of this name; rename one"#,
        ],
    },
    Bad {
        title: "a misspelt key of a service",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respnd = "hello"
"#,
        problems: &[r#"4:1: service "a" respnd: unknown key; did you mean respond?"#],
    },
    Bad {
        title: "a singular key",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origin = ["203.0.113.10"]
"#,
        problems: &[r#"4:1: service "a" origin: unknown key; did you mean origins?"#],
    },
    Bad {
        title: "a key of a binding in a service",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
ports = 80
"#,
        problems: &[r#"5:1: service "a" ports: unknown key; it belongs in an element of bindings"#],
    },
    Bad {
        title: "no bindings",
        text: r#"[[service]]
name = "a"
respond = "hello"
"#,
        problems: &[
            r#"1:1: service "a" bindings: missing; add at least one, for instance bindings = [{ prefix = "192.0.2.0/24" }]"#,
        ],
    },
    Bad {
        title: "an empty list of bindings",
        text: r#"[[service]]
name = "a"
bindings = []
respond = "hello"
"#,
        problems: &[
            r#"3:12: service "a" bindings: the list is empty; add at least one, for instance bindings = [{ prefix = "192.0.2.0/24" }]"#,
        ],
    },
    Bad {
        title: "bindings that are a table",
        text: r#"[[service]]
name = "a"
bindings = { prefix = "192.0.2.0/24" }
respond = "hello"
"#,
        problems: &[
            r#"3:12: service "a" bindings: expected a list such as [{ prefix = "192.0.2.0/24" }], found a table"#,
        ],
    },
    Bad {
        title: "bindings that are texts",
        text: r#"[[service]]
name = "a"
bindings = ["192.0.2.0/24"]
respond = "hello"
"#,
        problems: &[
            r#"3:13: service "a" bindings[0]: expected a table such as { prefix = "192.0.2.0/24" }, found a string"#,
        ],
    },
    Bad {
        title: "an empty service",
        text: "[[service]]
",
        problems: &[
            r#"1:1: service[0] bindings: missing; add at least one, for instance bindings = [{ prefix = "192.0.2.0/24" }]"#,
            r#"1:1: service[0] name: missing; name the service, for instance name = "games""#,
            r#"1:1: service[0]: nothing answers; add origins = ["203.0.113.10"] or respond = "hello""#,
        ],
    },
    Bad {
        title: "nothing answers",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]

"#,
        problems: &[
            r#"1:1: service "a": nothing answers; add origins = ["203.0.113.10"] or respond = "hello""#,
        ],
    },
    Bad {
        title: "origins and a built-in answer",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10"]
respond = "echo"
"#,
        problems: &[
            r#"5:11: service "a" respond: "echo": a service has origins or respond, not both; remove one"#,
        ],
    },
    Bad {
        title: "an answer that is none",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "teapot"
"#,
        problems: &[r#"4:11: service "a" respond: "teapot": expected hello, echo or discard"#],
    },
    Bad {
        title: "a misspelt answer",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "ehco"
"#,
        problems: &[
            r#"4:11: service "a" respond: "ehco": expected hello, echo or discard; did you mean echo?"#,
        ],
    },
    Bad {
        title: "an answer that is a boolean",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = true
"#,
        problems: &[
            r#"4:11: service "a" respond: true: expected "hello", "echo" or "discard", found a boolean"#,
        ],
    },
    Bad {
        title: "an empty list of origins",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = []
"#,
        problems: &[
            r#"4:11: service "a" origins: the list is empty; add origins = ["203.0.113.10"] or respond = "hello""#,
        ],
    },
    Bad {
        title: "origins that are a number",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = 80
"#,
        problems: &[
            r#"4:11: service "a" origins: 80: expected a string such as "203.0.113.10", or a table such as { origin = "203.0.113.10", weight = 2 }, found an integer"#,
        ],
    },
    Bad {
        title: "several bad origins",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
origins = [
  "203.0.113.300",
  "203.0.113.10:0",
  "[2001:db8::1",
  "",
  80,
]
"#,
        problems: &[
            r#"5:3: service "a" origins[0]: "203.0.113.300" is neither an IP address nor a host name"#,
            r#"6:3: service "a" origins[1]: "203.0.113.10:0": the dialled port is kept without any; write 203.0.113.10"#,
            r#"7:3: service "a" origins[2]: "[2001:db8::1": expected [IPV6] or [IPV6]:PORT"#,
            r#"8:3: service "a" origins[3]: "" is neither an IP address nor a host name"#,
            r#"9:3: service "a" origins[4]: 80: expected a string such as "203.0.113.10", or a table such as { origin = "203.0.113.10", weight = 2 }, found an integer"#,
        ],
    },
    Bad {
        title: "UDP in front of origins",
        text: r#"[[service]]
name = "a"
bindings = [{ protocol = "udp", prefix = "192.0.2.0/24" }]
origins = ["203.0.113.10"]
"#,
        problems: &[
            r#"4:11: service "a" origins: UDP can only echo or discard so far; give its UDP bindings to another service with respond = "echo" or "discard""#,
        ],
    },
    Bad {
        title: "UDP in front of hello",
        text: r#"[[service]]
name = "a"
bindings = [{ protocol = "both", prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"4:11: service "a" respond: "hello": UDP can only echo or discard so far; give its UDP bindings to another service with respond = "echo" or "discard""#,
        ],
    },
];
