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

/// Keys that mean the same elsewhere: the table in which they stand, they with blanks between them, the key of the same table that
/// is meant, if it is one, and the cure.
type Loanwords = (KeyTable, &'static str, Option<&'static str>, &'static str);

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
    (KeyTable::Binding, "address addresses bind cidr host ip listen network subnet", Some("prefix"), PREFIX),
    (
        KeyTable::File,
        "backend frontend listen proxies proxy server stream",
        Some("service"),
        "each service is a [[service]] with name, bindings and origins",
    ),
    (
        KeyTable::File,
        "nbproc nbthread threads worker-processes workers",
        None,
        "workers of [instance] says it, as --workers does",
    ),
    (
        KeyTable::Limits,
        "bandwidth download-rate proxy-download-rate proxy-upload-rate upload-rate",
        None,
        RATE,
    ),
    (
        KeyTable::Limits,
        "limit-conn max-connections max-conns maxconn",
        Some("connections"),
        "connections bounds all of the service, connections-per-source those of one client",
    ),
    (
        KeyTable::Origin,
        "addr address host server target url",
        Some("origin"),
        "say it in origin, as in origin = \"203.0.113.10:80\"",
    ),
    (KeyTable::Origin, "port", None, "write it behind the host, as in origin = \"203.0.113.10:80\""),
    (
        KeyTable::Origin,
        "max-conns maxconn",
        None,
        "an origin has no limit of its own; limits = { connections = 100 } of the service bounds all of its \
         connections",
    ),
    (KeyTable::Origin, "check fall health inter interval rise", None, HEALTH),
    (KeyTable::Origin, "fail-timeout max-fails", None, EJECT),
    (
        KeyTable::Origin,
        "disabled down drain",
        Some("weight"),
        "an origin of weight = 0 gets no new connections",
    ),
    (KeyTable::Origin, "priority", Some("backup"), "backup = true keeps an origin for when no other is up"),
    (KeyTable::Origin, "proxy-header proxy-protocol send-proxy send-proxy-v2", None, SEND_HEADER),
    (KeyTable::Service, "address bind listen listeners port", Some("bindings"), BIND),
    (
        KeyTable::Service,
        "backend backends destination forward forward-to origin-direct origin-dns proxy-pass \
         server servers target targets upstream upstreams",
        Some("origins"),
        ORIGINS,
    ),
    (
        KeyTable::Service,
        "acl allow allowlist blacklist deny denylist ip-firewall tcp-request whitelist",
        None,
        FILTER,
    ),
    (
        KeyTable::Service,
        "bind-source proxy-bind source source-address source-ip",
        None,
        "over TCP origins see the address that the host's routes choose, which a route can name, as in ip route \
         replace 10.8.0.0/24 dev eth1 src 10.8.0.1, and over UDP one of udp = { source = \"10.8.0.0/28\" }; \
         transparent = true dials from the client's own",
    ),
    (
        KeyTable::Service,
        "accept-proxy",
        Some("trusted-proxies"),
        "trusted-proxies says from whom a PROXY header is taken, as in trusted-proxies = [\"10.0.0.5\"]",
    ),
    (KeyTable::Service, "proxy-protocol send-proxy send-proxy-v2", Some("proxy-header"), SEND_HEADER),
    (
        KeyTable::Service,
        "connect-timeout idle-timeout keepalive proxy-connect-timeout proxy-timeout \
         timeout-client timeout-connect timeout-server",
        Some("timeouts"),
        TIMES,
    ),
    (KeyTable::Service, "check health-check healthcheck inter", Some("health"), HEALTH),
    (KeyTable::Service, "fail-timeout max-fails observe", Some("ejection"), EJECT),
    (
        KeyTable::Service,
        "affinity hash ip-hash session-affinity stick-table sticky",
        Some("balance"),
        "balance = \"source-hash\" keeps a client with an origin",
    ),
    (
        KeyTable::Service,
        "connections limit-conn max-connections max-conns maxconn",
        Some("limits"),
        "say it in limits, as in limits = { connections = 10000 }",
    ),
    (
        KeyTable::Service,
        "rate rate-limit",
        Some("limits"),
        "limits bound new connections, as in limits = { rate-per-source = 50 }",
    ),
    (
        KeyTable::Service,
        "bandwidth download-rate proxy-download-rate proxy-upload-rate upload-rate",
        None,
        RATE,
    ),
    (
        KeyTable::Service,
        "cert certificate crt domain hostname server-name sni ssl ssl-certificate ssl-preread tls",
        None,
        TLS,
    ),
    (KeyTable::Service, "label", Some("name"), "a service has a name, as in name = \"games\""),
    (
        KeyTable::Service,
        "mode",
        None,
        "every service passes on TCP as it is; remove it (mode of [dispatcher] is how packets come to the listeners)",
    ),
];

/// Values of other products: for the key, the values that mean the same, with blanks between them, and what to write.
const VALUES: &[(&str, &str, &str)] = &[
    ("balance", "leastconn least-conn leastconns least-sessions", "write \"least-connections\""),
    ("balance", "hash ip-hash iphash source sourcehash", "write \"source-hash\""),
    ("balance", "rr static-rr wrr", "write \"round-robin\", which goes by the weights of the origins"),
    ("balance", "random", "write \"round-robin\", which spreads connections at least as evenly"),
    (
        "balance",
        "first",
        "make all origins but the first backups, as in { origin = \"203.0.113.11\", backup = true }",
    ),
    ("mode", "bpf ebpf sklookup", "write \"sk-lookup\""),
    ("mode", "iptables nftables", "write \"tproxy\", and say which in firewall"),
    ("protocol", "all any tcp+udp tcp,udp tcp/udp udp,tcp udp/tcp *", "write \"both\""),
    ("protocol", "http https ssl tls ws wss", "write \"tcp\", whatever is spoken over it"),
    ("protocol", "dtls quic", "write \"udp\", whatever is spoken over it"),
    ("protocol", "icmp icmpv6", "the host itself answers ICMP for the addresses of every prefix"),
    ("proxy-header", "1 send-proxy", "write \"v1\""),
    ("proxy-header", "2 on send-proxy-v2 true yes", "write \"v2\""),
    ("proxy-header", "false no none off", "leave proxy-header out"),
];

/// The cure for the key `typed` of the table at `path`, if it is one of other products.
pub(super) fn key(path: &KeyPath<'_>, typed: &str) -> Option<&'static str> {
    found(path, typed).map(|(.., cure)| *cure)
}

/// Which key of the same table was meant by `typed`, if it is one of other products.
pub(super) fn meant(path: &KeyPath<'_>, typed: &str) -> Option<&'static str> {
    found(path, typed).and_then(|(_, _, ours, _)| *ours)
}

fn found(path: &KeyPath<'_>, typed: &str) -> Option<&'static Loanwords> {
    let (table, typed) = (table(path)?, normal(typed));
    KEYS.iter().find(|(of, words, ..)| *of == table && has(words, &typed))
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
    let known = VALUES.iter().find(|(of, words, _)| of == key && has(words, &typed));
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

fn has(words: &str, word: &str) -> bool {
    words.split(' ').any(|one| one == word)
}

fn normal(typed: &str) -> String {
    typed.trim().to_lowercase().replace(['_', ' '], "-")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_word_has_one_meaning_in_a_place() {
        let once = |words: Vec<(String, &str)>| {
            let mut seen = BTreeSet::new();
            for (place, word) in
                words.iter().flat_map(|(place, words)| words.split(' ').map(move |word| (place, word)))
            {
                assert_eq!(normal(word), *word);
                assert!(seen.insert((place, word)), "{word} of {place}");
            }
        };
        once(KEYS.iter().map(|(table, words, ..)| (format!("{table:?}"), *words)).collect());
        once(VALUES.iter().map(|(key, words, _)| ((*key).to_owned(), *words)).collect());
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
