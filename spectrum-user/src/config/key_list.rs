//! Every key that a configuration file may have: its table, the form of its value, what holds without it, and what it says. Reads
//! none of them.

use super::InstanceKeys;
use super::{FirewallChoice, ModeChoice, NatChoice, Protocols};
use crate::model::{
    Balance, CheckClose, DatagramHeader, DialOn, LogFormat, OnDeny, ProbeTemplate, ProxyVersion, Records,
    Responder,
};
use strum::VariantNames as _;

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Its table: `dispatcher`, `service.timeouts`, or nothing for the file itself.
    pub table: &'static str,
    /// Its name.
    pub key: &'static str,
    /// The form of its value.
    pub form: KeyForm,
    /// What holds without it, as TOML; none where nothing does.
    pub default: Option<&'static str>,
    /// Where that holds.
    pub holds: Holds,
    /// What it says, in one line.
    pub says: &'static str,
}

/// The form of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyForm {
    /// `true` or `false`.
    Truth,
    /// A number of a range.
    Number(u64, u64),
    /// Any text.
    Text,
    /// A text, or a list of them.
    Texts,
    /// One of some words.
    Word(&'static [&'static str]),
    /// One of two lists of words, whichever is for the protocols that are bound, and of some more.
    Words(&'static [&'static str], &'static [&'static str]),
    /// A time such as `5s`.
    Time,
    /// The same, or `none`.
    TimeOrNone,
    /// The table of this name.
    Table(&'static str),
    /// The table of this name, or `none`.
    TableOrNone(&'static str),
    /// A list of tables of this name.
    Tables(&'static str),
    /// A text, or a table of this name, or a list of either.
    TextsOrTables(&'static str),
    /// `true` or `false`, a text, or a list of them.
    TruthOrTexts,
    /// Ports: a number, ranges as text, or a list of both.
    Ports,
}

/// For which services something holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holds {
    /// For all, or for the instance.
    Always,
    /// Those that bind TCP.
    Tcp,
    /// Those that bind UDP.
    Udp,
    /// Those with origins.
    Origins,
    /// Those with origins that bind TCP.
    TcpOrigins,
    /// Those whose origins are checked.
    Checks,
    /// Those whose origins are checked by connecting.
    TcpChecks,
    /// Those whose origins are ejected.
    Ejection,
    /// Those that limit what one source takes.
    LimitsOfSources,
    /// None: it is of an element of a list.
    InAnElement,
}

const fn key(
    table: &'static str,
    key: &'static str,
    form: KeyForm,
    default: Option<&'static str>,
    holds: Holds,
    says: &'static str,
) -> KeySpec {
    KeySpec { table, key, form, default, holds, says }
}

use Holds::{Always, Checks, InAnElement, LimitsOfSources, TcpChecks, TcpOrigins};
use KeyForm::{
    Number, Ports, Table, TableOrNone, Tables, Text, Texts, TextsOrTables, Time, TimeOrNone, Truth,
    TruthOrTexts, Word, Words,
};

const MANY: u64 = u32::MAX as u64;

/// All of them, those of a table together.
#[rustfmt::skip]
pub const KEYS: &[KeySpec] = &[
    key("", "include", Texts, None, Always, "More files to read, as in [\"conf.d/*.toml\"], seen from where this one is"),
    key("", "dispatcher", Table("dispatcher"), None, Always, "How packets reach the listeners"),
    key("", "admin", Table("admin"), None, Always, "Metrics and health over HTTP"),
    key("", "resolver", Table("resolver"), None, Always, "How names of origins are resolved"),
    key("", "instance", Table("instance"), None, Always, "How the instance lives"),
    key("", "defaults", Table("defaults"), None, Always, "What holds for services that say nothing else"),
    key("", "log", Table("log"), None, Always, "Which connections leave a record, and how"),
    key("", "policy", Table("policy"), None, Always, "Who may come in to any service"),
    key("", "announce", Table("announce"), None, Always, "What BGP daemons of this host are to announce"),
    key("", "service", Tables("service"), None, Always, "What is steered where, and what answers"),

    key("dispatcher", "mode", Word(ModeChoice::VARIANTS), Some("\"auto\""), Always, "The path of packets to the listeners"),
    key("dispatcher", "firewall", Word(FirewallChoice::VARIANTS), Some("\"auto\""), Always, "The firewall that carries the rules of tproxy"),
    key("dispatcher", "nat", Word(NatChoice::VARIANTS), Some("\"exempt\""), Always, "What others' NAT rules may do to connections to what is bound"),
    key("dispatcher", "force", Texts, None, Always, "The host's own addresses that are served although that cuts who listens there, or all"),
    key("dispatcher", "repairs-per-minute", Number(0, 6_000), Some("20"), Always, "How often what others remove of one kind is put back within a minute"),

    key("admin", "listen", Text, None, Always, "The address and port of metrics and health"),

    key("resolver", "servers", Texts, None, Always, "The DNS servers, each with its port; those of /etc/resolv.conf if left out"),
    key("resolver", "timeout", Time, Some("\"2s\""), Always, "The time that a server may take to answer"),
    key("resolver", "min-ttl", Time, Some("\"1s\""), Always, "The shortest time for which an answer is used"),
    key("resolver", "addresses", Number(1, 1024), Some("64"), Always, "The most addresses of a name that are used"),
    key("resolver", "targets", Number(1, 1024), Some("64"), Always, "The most SRV records of a name that are used"),

    key("announce", "prefixes", TruthOrTexts, None, Always, "The prefixes, or true for those that cover what is bound"),
    key("announce", "rise", Time, Some("\"3s\""), Always, "How long what was withdrawn has its origins before it is announced"),
    key("announce", "fall", Time, Some("\"1s\""), Always, "How long what is announced lacks origins before it is withdrawn"),
    key("announce", "hold", Time, Some("\"10s\""), Always, "The shortest time that something stays withdrawn"),
    key("announce", "lame-duck", Time, None, Always, "How long everything is served after SIGTERM, although withdrawn"),

    key("instance", "drain", Time, Some("\"10s\""), Always, "The time for connections to end after SIGTERM"),
    key("instance", "workers", Number(1, InstanceKeys::MOST_WORKERS as u64), None, Always, "Worker threads; one for each core if left out"),
    key("instance", "user", Text, None, Always, "The user that the worker process is, by name or number"),
    key("instance", "netns", Text, None, Always, "The network namespace to work in, by name or path"),
    key("instance", "single-process", Truth, Some("false"), Always, "What serves is a thread of the steerer, for debuggers"),
    key("instance", "pin", Truth, Some("false"), Always, "Registered sockets are steered to, over sk_lookup, also when the instance has ended"),

    key("defaults", "timeouts", Table("service.timeouts"), None, Always, "Times of connections"),
    key("defaults", "limits", Table("service.limits"), None, Always, "How many connections"),
    key("defaults", "health", Table("service.health"), None, Always, "Checks of origins"),
    key("defaults", "log", Table("service.log"), None, Always, "Which connections leave a record"),

    key("log", "format", Word(LogFormat::VARIANTS), Some("\"text\""), Always, "The form of log lines and connection records"),
    key("log", "records", Word(Records::VARIANTS), Some("\"all\""), Always, "The connections that leave a record when they are over"),
    key("log", "sample", Text, Some("\"1/1\""), Always, "How many of those that did not fail do: \"1/100\""),
    key("log", "opened", Truth, Some("false"), Always, "Another record when a connection begins to carry bytes"),
    key("log", "empty", Truth, None, Always, "A record of a connection that its client ended before a byte came"),

    key("service", "name", Text, None, Always, "Its name in logs and counters"),
    key("service", "bindings", Tables("binding"), None, Always, "Which packets are steered to it"),
    key("service", "origins", TextsOrTables("origin"), None, Always, "The servers to relay to"),
    key("service", "respond", Word(Responder::VARIANTS), None, Always, "A built-in answer instead of origins"),
    key("service", "registered", Truth, None, Always, "Other programs answer, whose sockets are registered by hand"),
    key("service", "sockets", Texts, None, Always, "Sockets of other programs that are found by themselves: \"nginx.service tcp 443\", with \"weight 9\" behind it beside others"),
    key("service", "balance", Words(Balance::VARIANTS, &["least-sessions"]), Some("\"round-robin\""), Holds::Origins, "Which origin a connection gets"),
    key("service", "health", TableOrNone("service.health"), None, Always, "Checks of its origins"),
    key("service", "ejection", Table("service.ejection"), None, Always, "When an origin is not dialled for a time"),
    key("service", "dial-on", Word(DialOn::VARIANTS), Some("\"accept\""), TcpOrigins, "When a connection's origin is dialled"),
    key("service", "proxy-header", Words(ProxyVersion::VARIANTS, DatagramHeader::VARIANTS), None, Always, "The header that tells origins who the client is"),
    key("service", "unique-id", Truth, None, Always, "A unique id of each connection, which v2 tells the origin"),
    key("service", "transparent", Truth, Some("false"), Holds::Origins, "Origins are dialled from the client's own address"),
    key("service", "local-origins", Truth, Some("false"), Holds::Origins, "Names of origins may mean what only this host reaches"),
    key("service", "limits", Table("service.limits"), None, Always, "How many connections"),
    key("service", "timeouts", Table("service.timeouts"), None, Always, "Times of its connections by TCP"),
    key("service", "trusted-proxies", Texts, None, Always, "The prefixes whose PROXY headers are believed"),
    key("service", "policy", Table("service.policy"), None, Always, "Who may come in to it"),
    key("service", "announce", TruthOrTexts, None, Always, "The prefixes to announce for it, or true for those that cover what it binds"),
    key("service", "announce-when", Text, None, Always, "How many of its origins that takes: \"origins >= 1\""),
    key("service", "udp", Table("service.udp"), None, Always, "Its sessions of UDP"),
    key("service", "log", Table("service.log"), None, Always, "What is to be otherwise than in [log]"),

    key("policy", "deny", TextsOrTables("policy-file"), None, Always, "Prefixes that may not, \"country:KP\", \"as:64496\", and files of prefixes"),
    key("policy", "allow", TextsOrTables("policy-file"), None, Always, "Prefixes that may, \"country:KP\", \"as:64496\", and files of prefixes"),
    key("policy", "on-deny", Word(OnDeny::VARIANTS), None, Always, "What those hear who may not"),
    key("policy", "rate", Text, None, Always, "How often a source may come: \"50/s burst 100 per /32 /64\""),
    key("policy", "interfaces", Texts, None, Always, "The interfaces by which clients may come"),
    key("policy", "mmdb", Texts, None, Always, "Databases of the networks of countries and AS, such as \"/var/lib/GeoIP/GeoLite2-Country.mmdb\""),
    key("policy", "xdp", Texts, None, Always, "The interfaces where those who hear nothing are dropped before the stack sees them"),

    key("service.policy", "deny", TextsOrTables("policy-file"), None, Always, "Prefixes that may not, \"country:KP\", \"as:64496\", and files of prefixes"),
    key("service.policy", "allow", TextsOrTables("policy-file"), None, Always, "Prefixes that may, \"country:KP\", \"as:64496\", and files of prefixes"),
    key("service.policy", "on-deny", Word(OnDeny::VARIANTS), None, Always, "What those hear who may not"),
    key("service.policy", "rate", Text, None, Always, "How often a source may come: \"50/s burst 100 per /32 /64\""),
    key("service.policy", "interfaces", Texts, None, Always, "The interfaces by which clients may come"),

    key("policy-file", "file", Text, None, InAnElement, "A file with a prefix on each line"),

    key("service.limits", "connections", Number(1, MANY), None, Always, "Open connections"),
    key("service.limits", "connections-per-source", Number(1, MANY), None, Always, "Open connections of one source"),
    key("service.limits", "rate-per-source", Number(1, MANY), None, Always, "New connections of one source in a second"),
    key("service.limits", "source-ipv4", Number(0, 32), Some("32"), LimitsOfSources, "The bits of an IPv4 address that are one source"),
    key("service.limits", "source-ipv6", Number(0, 128), Some("64"), LimitsOfSources, "The bits of an IPv6 address that are one source"),

    key("service.timeouts", "connect", Time, Some("\"5s\""), Holds::Tcp, "Until one address of an origin answers"),
    key("service.timeouts", "idle", TimeOrNone, Some("\"1h\""), Holds::Tcp, "Without a byte in either direction"),
    key("service.timeouts", "half-closed", TimeOrNone, Some("\"5m\""), Holds::Tcp, "The same after one side has ended"),
    key("service.timeouts", "lifetime", TimeOrNone, Some("\"none\""), Holds::Tcp, "In all"),
    key("service.timeouts", "unacknowledged", TimeOrNone, Some("\"none\""), Holds::Tcp, "Until a peer acknowledges what was sent"),
    key("service.timeouts", "keepalive", TimeOrNone, Some("\"1m\""), Holds::Tcp, "Silence before a peer is asked whether it is there"),

    key("service.health", "interval", Time, Some("\"5s\""), Checks, "The time between two checks"),
    key("service.health", "timeout", Time, Some("\"2s\""), Checks, "The time that one may take"),
    key("service.health", "rise", Number(1, 1000), Some("2"), Checks, "Successes in a row that bring an origin back"),
    key("service.health", "fall", Number(1, 1000), Some("3"), Checks, "Failures in a row that take it out of use"),
    key("service.health", "port", Number(1, 65_535), None, Always, "The port that is checked, if not the origin's own"),
    key("service.health", "close", Word(CheckClose::VARIANTS), Some("\"fin\""), TcpChecks, "How a check is closed"),
    key("service.health", "template", Word(ProbeTemplate::VARIANTS), None, Always, "What is asked by UDP"),
    key("service.health", "send", Text, None, Always, "The bytes that are asked by UDP"),
    key("service.health", "expect", Text, None, Always, "The beginning of the answer to send"),

    key("service.ejection", "failures", Number(1, 1000), Some("5"), Holds::Ejection, "Failed dials in a row"),
    key("service.ejection", "time", Time, Some("\"30s\""), Holds::Ejection, "The time without dials"),

    key("service.udp", "idle", Time, Some("\"30s\""), Holds::Udp, "Without a datagram in either direction"),
    key("service.udp", "lifetime", TimeOrNone, Some("\"none\""), Holds::Udp, "In all"),
    key("service.udp", "responses", Number(1, MANY), None, Always, "Answers with which a session is over"),
    key("service.udp", "sessions", Number(1, 16_777_216), None, Always, "Sessions at once"),
    key("service.udp", "quic", Truth, None, Always, "A client of QUIC with another address goes on with its session"),
    key("service.udp", "source", Texts, None, Always, "The prefixes whose addresses origins see"),

    key("service.log", "records", Word(Records::VARIANTS), None, Always, "The connections that leave a record"),
    key("service.log", "sample", Text, None, Always, "How many of those that did not fail do"),
    key("service.log", "opened", Truth, None, Always, "Another record when bytes begin to flow"),
    key("service.log", "empty", Truth, None, Always, "A record of what ended before a byte came"),

    key("binding", "prefix", Texts, None, InAnElement, "The addresses: a prefix, or a list of them"),
    key("binding", "ports", Ports, None, InAnElement, "The ports; all if left out"),
    key("binding", "protocol", Word(Protocols::VARIANTS), None, InAnElement, "tcp if left out"),

    key("origin", "origin", Text, None, InAnElement, "The server: an address or name, with a port or the dialled one"),
    key("origin", "weight", Number(0, 256), None, InAnElement, "Its share of the connections; 1 if left out"),
    key("origin", "backup", Truth, None, InAnElement, "It is used only while no other is usable"),
];
