//! The words of the verbs that work on pinned state. Acts on nothing.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "clap prints these comments as they are: a bracket is a bracket"
)]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::Protocols;
use crate::model::{Binding, Forced, PortRange, Prefix, ServiceName, parse_address_and_port};

/// Flags of `load`.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// File, or directory of files, whose services, each with registered = true, are bound from the beginning [default: none]
    #[arg(long, value_name = "FILE|DIR")]
    pub config: Option<PathBuf>,

    /// Group whose members may look at what is pinned, by name or number [default: root's]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,

    /// The addresses that may be bound though it cuts somebody.
    #[command(flatten)]
    pub force: ForceArgs,

    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// Flags of `unload`.
#[derive(Args, Clone, Debug)]
pub struct UnloadArgs {
    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// Words of `bind`.
#[derive(Args, Clone, Debug)]
pub struct BindArgs {
    /// The binding.
    #[command(flatten)]
    pub binding: BindingArgs,

    /// The addresses that may be bound though it cuts somebody.
    #[command(flatten)]
    pub force: ForceArgs,

    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// Words of `unbind`.
#[derive(Args, Clone, Debug)]
pub struct UnbindArgs {
    /// The binding.
    #[command(flatten)]
    pub binding: BindingArgs,

    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// A binding as it is typed, or several that differ in protocol and ports.
#[derive(Args, Clone, Debug)]
pub struct BindingArgs {
    /// The service, which need not be there before
    #[arg(value_name = "SERVICE")]
    pub service: ServiceName,

    /// tcp, udp or both
    #[arg(value_name = "PROTOCOL")]
    pub protocols: Protocols,

    /// Prefix, e.g. 192.0.2.0/24 or 2001:db8::/64; a bare address is itself alone
    #[arg(value_name = "PREFIX")]
    pub prefix: Prefix,

    /// Ports, e.g. 80,443,8000-8100 [default: 1-65535]
    #[arg(value_name = "PORTS", value_delimiter = ',')]
    pub ports: Vec<PortRange>,
}

impl BindingArgs {
    /// Each of the bindings.
    pub fn each(&self) -> impl Iterator<Item = Binding> {
        let all = if self.ports.is_empty() { &[PortRange::ALL][..] } else { &self.ports };
        let of = |protocol: &'_ _| {
            let (protocol, prefix) = (*protocol, self.prefix);
            all.iter().map(move |ports| Binding { protocol, prefix, ports: *ports })
        };
        self.protocols.each().iter().flat_map(of)
    }
}

/// Flags of `load-bindings`.
#[derive(Args, Clone, Debug)]
pub struct LoadBindingsArgs {
    /// File whose bindings are to be those that there are: a configuration, or JSON as tubular has it, {"bindings": [{"label": "web",
    /// "prefix": "192.0.2.0/24", "port": 80}]}, where each is of both protocols and port 0 means all
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// The addresses that may be bound though it cuts somebody.
    #[command(flatten)]
    pub force: ForceArgs,

    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// Flags of `metrics`.
#[derive(Args, Clone, Debug)]
pub struct MetricsArgs {
    /// Address and port to serve them on over HTTP, until told to stop, e.g. 127.0.0.1:9180 [default: print them once]
    #[arg(value_name = "ADDRESS:PORT", value_parser = parse_address_and_port)]
    pub listen: Option<SocketAddr>,

    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// The host's own addresses that may be bound although that cuts something.
#[derive(Args, Clone, Debug)]
pub struct ForceArgs {
    /// Bind addresses of this host's interfaces although that cuts who listens there: those of PREFIX, or all (repeatable)
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "all")]
    pub force: Vec<Forced>,
}
