//! Words of other products' configurations, and what says the same here. Judges no value: a loanword is refused in any case.

use super::key_path::KeyPath;
use spectrum_common::Either;

/// The table in which a key stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum KeyTable {
    Binding,
    File,
    Limits,
    Origin,
    Service,
}

/// Keys that mean the same, elsewhere.
struct Loanwords {
    table: KeyTable,
    typed: &'static [&'static str],
    /// The key of the same table that is meant, if it is one.
    ours: Option<&'static str>,
    cure: &'static str,
}

const BIND: &str = "say it in bindings, as in bindings = [{ prefix = \"192.0.2.0/24\", ports = 80 }]";
const EJECT: &str =
    "ejection of the service does that for each origin, as in ejection = { failures = 3, time = \"10s\" }";
const FILTER: &str = "clients are kept out by the host's firewall, whose input chain sees the address and port that they \
                      dialled, as in nft add rule inet filter input ip saddr 203.0.113.0/24 ip daddr 192.0.2.0/24 drop; \
                      limits bound what one source may take";
const HEALTH: &str =
    "health of the service checks its origins, as in health = { interval = \"5s\", rise = 2, fall = 3 }";
const ORIGINS: &str = "name the servers in origins, as in origins = [\"203.0.113.10:80\"]";
const PREFIX: &str = "say it in prefix, as in prefix = \"192.0.2.0/24\"";
const RATE: &str = "bytes are not limited here, but by a queue of the kernel (tc qdisc) or by the origin; rate-per-source \
                    of limits bounds new connections";
const SEND_HEADER: &str = "proxy-header = \"v2\" of a service sends its origins a PROXY header; trusted-proxies says \
                           from whom one is taken";
const TIMES: &str = "say it in timeouts, as in timeouts = { connect = \"5s\", idle = \"10m\" }";
const TLS: &str =
    "TLS passes as it is and ends at the origin; a service is chosen by the dialled address and port alone";

const KEYS: &[Loanwords] = &[
    Loanwords {
        table: KeyTable::Binding,
        typed: &["address", "addresses", "bind", "cidr", "host", "ip", "listen", "network", "subnet"],
        ours: Some("prefix"),
        cure: PREFIX,
    },
    Loanwords {
        table: KeyTable::File,
        typed: &["backend", "frontend", "listen", "proxies", "proxy", "server", "stream"],
        ours: Some("service"),
        cure: "each service is a [[service]] with name, bindings and origins",
    },
    Loanwords {
        table: KeyTable::File,
        typed: &["nbproc", "nbthread", "threads", "worker-processes", "workers"],
        ours: None,
        cure: "--workers on the command line says it",
    },
    Loanwords {
        table: KeyTable::Limits,
        typed: &["bandwidth", "download-rate", "proxy-download-rate", "proxy-upload-rate", "upload-rate"],
        ours: None,
        cure: RATE,
    },
    Loanwords {
        table: KeyTable::Limits,
        typed: &["limit-conn", "max-connections", "max-conns", "maxconn"],
        ours: Some("connections"),
        cure: "connections bounds all of the service, connections-per-source those of one client",
    },
    Loanwords {
        table: KeyTable::Origin,
        typed: &["addr", "address", "host", "server", "target", "url"],
        ours: Some("origin"),
        cure: "say it in origin, as in origin = \"203.0.113.10:80\"",
    },
    Loanwords {
        table: KeyTable::Origin,
        typed: &["port"],
        ours: None,
        cure: "write it behind the host, as in origin = \"203.0.113.10:80\"",
    },
    Loanwords {
        table: KeyTable::Origin,
        typed: &["max-conns", "maxconn"],
        ours: None,
        cure: "an origin has no limit of its own; limits = { connections = 100 } of the service bounds all of its \
               connections",
    },
    Loanwords {
        table: KeyTable::Origin,
        typed: &["check", "fall", "health", "inter", "interval", "rise"],
        ours: None,
        cure: HEALTH,
    },
    Loanwords { table: KeyTable::Origin, typed: &["fail-timeout", "max-fails"], ours: None, cure: EJECT },
    Loanwords {
        table: KeyTable::Origin,
        typed: &["disabled", "down", "drain"],
        ours: Some("weight"),
        cure: "an origin of weight = 0 gets no new connections",
    },
    Loanwords {
        table: KeyTable::Origin,
        typed: &["priority"],
        ours: Some("backup"),
        cure: "backup = true keeps an origin for when no other is up",
    },
    Loanwords {
        table: KeyTable::Origin,
        typed: &["proxy-header", "proxy-protocol", "send-proxy", "send-proxy-v2"],
        ours: None,
        cure: SEND_HEADER,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["address", "bind", "listen", "listeners", "port"],
        ours: Some("bindings"),
        cure: BIND,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &[
            "backend",
            "backends",
            "destination",
            "forward",
            "forward-to",
            "origin-direct",
            "origin-dns",
            "proxy-pass",
            "server",
            "servers",
            "target",
            "targets",
            "upstream",
            "upstreams",
        ],
        ours: Some("origins"),
        cure: ORIGINS,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &[
            "acl",
            "allow",
            "allowlist",
            "blacklist",
            "deny",
            "denylist",
            "ip-firewall",
            "tcp-request",
            "whitelist",
        ],
        ours: None,
        cure: FILTER,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["bind-source", "proxy-bind", "source", "source-address", "source-ip"],
        ours: None,
        cure: "over TCP origins see the address that the host's routes choose, which a route can name, as in ip route \
               replace 10.8.0.0/24 dev eth1 src 10.8.0.1, and over UDP one of udp = { source = \"10.8.0.0/28\" }; \
               transparent = true dials from the client's own",
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["accept-proxy"],
        ours: Some("trusted-proxies"),
        cure: "trusted-proxies says from whom a PROXY header is taken, as in trusted-proxies = [\"10.0.0.5\"]",
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["proxy-protocol", "send-proxy", "send-proxy-v2"],
        ours: Some("proxy-header"),
        cure: SEND_HEADER,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &[
            "connect-timeout",
            "idle-timeout",
            "keepalive",
            "proxy-connect-timeout",
            "proxy-timeout",
            "timeout-client",
            "timeout-connect",
            "timeout-server",
        ],
        ours: Some("timeouts"),
        cure: TIMES,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["check", "health-check", "healthcheck", "inter"],
        ours: Some("health"),
        cure: HEALTH,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["fail-timeout", "max-fails", "observe"],
        ours: Some("ejection"),
        cure: EJECT,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["affinity", "hash", "ip-hash", "session-affinity", "stick-table", "sticky"],
        ours: Some("balance"),
        cure: "balance = \"source-hash\" keeps a client with an origin",
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["connections", "limit-conn", "max-connections", "max-conns", "maxconn"],
        ours: Some("limits"),
        cure: "say it in limits, as in limits = { connections = 10000 }",
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["rate", "rate-limit"],
        ours: Some("limits"),
        cure: "limits bound new connections, as in limits = { rate-per-source = 50 }",
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["bandwidth", "download-rate", "proxy-download-rate", "proxy-upload-rate", "upload-rate"],
        ours: None,
        cure: RATE,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &[
            "cert",
            "certificate",
            "crt",
            "domain",
            "hostname",
            "server-name",
            "sni",
            "ssl",
            "ssl-certificate",
            "ssl-preread",
            "tls",
        ],
        ours: None,
        cure: TLS,
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["label"],
        ours: Some("name"),
        cure: "a service has a name, as in name = \"games\"",
    },
    Loanwords {
        table: KeyTable::Service,
        typed: &["mode"],
        ours: None,
        cure: "every service passes on TCP as it is; remove it (mode of [dispatcher] is how packets come to the listeners)",
    },
];

/// Values of other products: for the key, the values that mean the same, and what to write.
const VALUES: &[(&str, &[&str], &str)] = &[
    ("balance", &["leastconn", "least-conn", "leastconns", "least-sessions"], "write \"least-connections\""),
    ("balance", &["hash", "ip-hash", "iphash", "source", "sourcehash"], "write \"source-hash\""),
    (
        "balance",
        &["rr", "static-rr", "wrr"],
        "write \"round-robin\", which goes by the weights of the origins",
    ),
    ("balance", &["random"], "write \"round-robin\", which spreads connections at least as evenly"),
    (
        "balance",
        &["first"],
        "make all origins but the first backups, as in { origin = \"203.0.113.11\", backup = true }",
    ),
    ("mode", &["bpf", "ebpf", "sklookup"], "write \"sk-lookup\""),
    ("mode", &["iptables", "nftables"], "write \"tproxy\", and say which in firewall"),
    (
        "protocol",
        &["all", "any", "tcp+udp", "tcp,udp", "tcp/udp", "udp,tcp", "udp/tcp", "*"],
        "write \"both\"",
    ),
    ("protocol", &["http", "https", "ssl", "tls", "ws", "wss"], "write \"tcp\", whatever is spoken over it"),
    ("protocol", &["dtls", "quic"], "write \"udp\", whatever is spoken over it"),
    ("protocol", &["icmp", "icmpv6"], "the host itself answers ICMP for the addresses of every prefix"),
    ("proxy-header", &["1", "send-proxy"], "write \"v1\""),
    ("proxy-header", &["2", "on", "send-proxy-v2", "true", "yes"], "write \"v2\""),
    ("proxy-header", &["false", "no", "none", "off"], "leave proxy-header out"),
];

/// The cure for the key `typed` of the table at `path`, if it is one of other products.
pub(super) fn key(path: &KeyPath<'_>, typed: &str) -> Option<&'static str> {
    found(path, typed).map(|words| words.cure)
}

/// Which key of the same table was meant by `typed`, if it is one of other products.
pub(super) fn meant(path: &KeyPath<'_>, typed: &str) -> Option<&'static str> {
    found(path, typed).and_then(|words| words.ours)
}

fn found(path: &KeyPath<'_>, typed: &str) -> Option<&'static Loanwords> {
    let (table, typed) = (table(path)?, normal(typed));
    KEYS.iter().find(|words| words.table == table && words.typed.contains(&typed.as_str()))
}

fn table(path: &KeyPath<'_>) -> Option<KeyTable> {
    match path {
        KeyPath::File => Some(KeyTable::File),
        KeyPath::Service { .. } => Some(KeyTable::Service),
        KeyPath::Key(_, "limits") => Some(KeyTable::Limits),
        KeyPath::Key(_, "origins") | KeyPath::Index(KeyPath::Key(_, "origins"), _) => Some(KeyTable::Origin),
        KeyPath::Index(KeyPath::Key(_, "bindings"), _) => Some(KeyTable::Binding),
        KeyPath::Index(..) | KeyPath::Key(..) => None,
    }
}

/// The right notation for the value `typed` of the key at `path`, if it is one of other products.
pub(super) fn value(path: &KeyPath<'_>, typed: &str) -> Option<String> {
    let KeyPath::Key(_, key) = path else { return None };
    let typed = normal(typed);
    let known = VALUES.iter().find(|(of, words, _)| of == key && words.contains(&typed.as_str()));
    if let Some((_, _, cure)) = known {
        return Some((*cure).to_owned());
    }
    let (protocol, ports) = typed.split_once(['/', ':'])?;
    let is_protocol = *key == "protocol" && ["tcp", "udp"].contains(&protocol);
    let is_ports = ports.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    (is_protocol && is_ports && !ports.is_empty())
        .then(|| format!("ports have a key of their own: protocol = \"{protocol}\", ports = \"{ports}\""))
}

/// `"v1" or "v2"`.
pub(super) fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    Either(&quoted.iter().map(String::as_str).collect::<Vec<_>>()).to_string()
}

fn normal(typed: &str) -> String {
    typed.trim().to_lowercase().replace(['_', ' '], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_one_meaning_in_a_place() {
        for (index, words) in KEYS.iter().enumerate() {
            for typed in words.typed {
                assert_eq!(normal(typed), *typed);
                let other = KEYS
                    .iter()
                    .skip(index + 1)
                    .find(|other| other.table == words.table && other.typed.contains(typed));
                assert!(other.is_none(), "{typed} of {:?}", words.table);
            }
        }
        for (index, (key, words, _)) in VALUES.iter().enumerate() {
            for typed in *words {
                assert_eq!(normal(typed), *typed);
                let mut others = VALUES.iter().skip(index + 1);
                assert!(!others.any(|(of, others, _)| of == key && others.contains(typed)), "{key} {typed}");
            }
        }
    }

    #[test]
    fn a_protocol_with_a_port_is_told_apart() {
        let binding = KeyPath::Index(&KeyPath::File, 0);
        let path = KeyPath::Key(&binding, "protocol");
        let cure = |typed| value(&path, typed);
        assert_eq!(
            cure("tcp/22").as_deref(),
            Some("ports have a key of their own: protocol = \"tcp\", ports = \"22\"")
        );
        assert_eq!(cure("TCP/UDP").as_deref(), Some("write \"both\""));
        assert_eq!(cure("sctp/22"), None);
        assert_eq!(cure("tcp/x"), None);
    }
}
