//! What `[log]` and the `log` of a service cannot be.

use super::Bad;

pub(super) const FILES: &[Bad] = &[
    Bad {
        title: "words and shares of the log that there are not",
        text: r#"[log]
format = "jsno"
records = "errors"
sample = 0.01
opened = "yes"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
log = { sample = "1%", format = "json" }
records = "none"
"#,
        problems: &[
            "2:10: log.format: \"jsno\": expected text or json; did you mean json?",
            "3:11: log.records: \"errors\": expected all, failures or none",
            "4:10: log.sample: 0.01: expected a text such as \"1/100\", found a float",
            "5:10: log.opened: \"yes\": expected true or false, found a string",
            "10:18: service \"a\" log.sample: \"1%\": not a share such as \"1/100\", which is one record of a hundred",
            "10:24: service \"a\" log.format: unknown key; it belongs in [log]",
            "11:1: service \"a\" records: unknown key; it belongs in [log], or log of a service",
        ],
    },
    Bad {
        title: "a log that is no table",
        text: r#"log = "json"
[[service]]
name = "a"
bindings = [{ prefix = "192.0.2.0/24" }]
respond = "hello"
log = "none"
"#,
        problems: &[
            "1:7: log: \"json\": expected a table, [log], found a string",
            "6:7: service \"a\" log: \"none\": expected a table such as { records = \"failures\" }, found a string",
        ],
    },
];
