//! What is no TOML, and what is not at the top of a file.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "an unclosed string",
        text: r#"[dispatcher]
mode = "auto
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[r#"2:13: not TOML: invalid basic string, expected `"`"#],
    },
    Bad {
        title: "two places that are not TOML",
        text: "mode = 
service = [
",
        problems: &[
            "1:8: not TOML: string values must be quoted, expected literal string",
            "2:12: not TOML: unclosed array, expected `]`",
        ],
    },
    Bad {
        title: "a key twice",
        text: r#"[dispatcher]
mode = "auto"
mode = "tproxy"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["3:1: not TOML: duplicate key"],
    },
    Bad {
        title: "a table twice",
        text: r#"[dispatcher]
[dispatcher]
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["2:2: not TOML: duplicate key"],
    },
    Bad {
        title: "a value without quotes",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = hello
"#,
        problems: &["4:11: not TOML: string values must be quoted, expected literal string"],
    },
    Bad {
        title: "a missing comma",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" ports = 80 }]
respond = "hello"
"#,
        problems: &["3:39: not TOML: missing comma between key-value pairs, expected `,`"],
    },
    Bad {
        title: "an unclosed list",
        text: r#"[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }
respond = "hello"
"#,
        problems: &["4:1: not TOML: missing comma between array elements, expected `,`"],
    },
    Bad {
        title: "JSON",
        text: r#"{ "service": [] }
"#,
        problems: &["1:1: not TOML: invalid key-value pair, expected key"],
    },
    Bad {
        title: "nothing",
        text: "",
        problems: &["1:1: no service; add [[service]] with name, bindings, and origins or respond"],
    },
    Bad {
        title: "comments alone",
        text: "# nothing here
",
        problems: &["1:1: no service; add [[service]] with name, bindings, and origins or respond"],
    },
    Bad {
        title: "no service",
        text: r#"[dispatcher]
mode = "auto"
"#,
        problems: &["1:1: no service; add [[service]] with name, bindings, and origins or respond"],
    },
    Bad {
        title: "an empty list of services",
        text: "service = []
",
        problems: &["1:11: no service; add [[service]] with name, bindings, and origins or respond"],
    },
    Bad {
        title: "one bracket too few",
        text: r#"[service]
name = "a"
"#,
        problems: &["1:1: service: expected a list of tables, each under [[service]], found a table"],
    },
    Bad {
        title: "a service that is no table",
        text: "service = [7]
",
        problems: &["1:12: service[0]: 7: expected a table under [[service]], found an integer"],
    },
    Bad {
        title: "a list of dispatchers",
        text: r#"[[dispatcher]]
mode = "auto"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["1:1: dispatcher: expected a table, [dispatcher], found a list"],
    },
    Bad {
        title: "a dispatcher that is a word",
        text: r#"dispatcher = "auto"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[r#"1:14: dispatcher: "auto": expected a table, [dispatcher], found a string"#],
    },
    Bad {
        title: "a misspelt table",
        text: r#"[dispacher]
mode = "auto"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["1:2: dispacher: unknown key; did you mean dispatcher?"],
    },
    Bad {
        title: "a plural table",
        text: r#"[[services]]
name = "a"
"#,
        problems: &["1:3: services: unknown key; did you mean service?"],
    },
    Bad {
        title: "a key of the dispatcher in the file",
        text: r#"mode = "auto"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["1:1: mode: unknown key; it belongs in [dispatcher]"],
    },
    Bad {
        title: "a key nobody knows",
        text: r#"verbose = true
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["1:1: verbose: unknown key; expected dispatcher, admin, resolver, log or service"],
    },
    Bad {
        title: "a mode that is none",
        text: r#"[dispatcher]
mode = "fast"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[r#"2:8: dispatcher.mode: "fast": expected auto, sk-lookup or tproxy"#],
    },
    Bad {
        title: "a misspelt mode",
        text: r#"[dispatcher]
mode = "sk_lookup"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"2:8: dispatcher.mode: "sk_lookup": expected auto, sk-lookup or tproxy; did you mean sk-lookup?"#,
        ],
    },
    Bad {
        title: "a mode in capitals",
        text: r#"[dispatcher]
mode = "TPROXY"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[
            r#"2:8: dispatcher.mode: "TPROXY": expected auto, sk-lookup or tproxy; did you mean tproxy?"#,
        ],
    },
    Bad {
        title: "a mode that is a number",
        text: r#"[dispatcher]
mode = 1
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &[r#"2:8: dispatcher.mode: 1: expected "auto", "sk-lookup" or "tproxy", found an integer"#],
    },
    Bad {
        title: "a misspelt key of the dispatcher",
        text: r#"[dispatcher]
mod = "auto"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
"#,
        problems: &["2:1: dispatcher.mod: unknown key; did you mean mode?"],
    },
];
