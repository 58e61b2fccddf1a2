//! The command line: what may be typed, and the help that says so. Acts on nothing.
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "clap prints these comments as they are: a bracket is a bracket"
)]

mod pinned;
mod value;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::{FirewallChoice, Flags, InstanceKeys, ModeChoice, NatChoice, Planned, Protocols};
use crate::control::{BindingsQuery, OriginQuery};
use crate::model::{
    Forced, LogFormat, Origin, OriginSetting, PortRange, Prefix, Protocol, RecordKeys, Records, Responder,
    Sample, Weight, parse_address_and_port,
};
use crate::registry::InstanceName;
pub use pinned::{
    BindArgs, BindingArgs, ForceArgs, LoadArgs, LoadBindingsArgs, MetricsArgs, UnbindArgs, UnloadArgs,
};

/// One listening socket for any port on any address of whole IP prefixes, and an L4 proxy behind it.
#[derive(Debug, Parser)]
#[command(
    name = "spectrum-user",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Example: sudo spectrum-user --prefix 192.0.2.0/24\n\n\
                  Exit codes: 0 done, 1 failure, 2 usage, 77 not permitted, 78 bad configuration"
)]
pub struct Cli {
    /// The verb; running is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The options of a run.
    #[command(flatten)]
    pub run: RunArgs,
}

impl Cli {
    /// Parses a command line, the program's name first.
    ///
    /// # Errors
    /// As clap reports usage errors, with the cure where clap only says what does not go together.
    pub fn parse_words(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(words).map_err(with_cure)
    }
}

fn with_cure(mut error: clap::Error) -> clap::Error {
    let is_config = |argument: &String| argument.starts_with("--config");
    let names_config = |kind| match error.get(kind) {
        Some(ContextValue::String(argument)) => is_config(argument),
        Some(ContextValue::Strings(arguments)) => arguments.iter().any(is_config),
        _ => false,
    };
    let is_about_config = names_config(ContextKind::InvalidArg) || names_config(ContextKind::PriorArg);
    if error.kind() == ErrorKind::ArgumentConflict && is_about_config {
        let cure = "the file says what to serve: write it there, as a [[service]], or leave --config out";
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![cure.into()]));
    }
    error
}

/// A usage error of `verb`, with its own usage.
pub(crate) fn misused(verb: &str, message: String) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut(verb) {
        Some(verb) => verb.error(ErrorKind::ValueValidation, message),
        None => command.error(ErrorKind::ValueValidation, message),
    }
}

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deny clients no more whom `deny` denies, or let them in whatever wider prefixes say
    Allow(AllowArgs),
    /// Announce to routers again what was withdrawn, or print what a BGP daemon is to be told
    Announce(AnnounceArgs),
    /// Have what is pinned steer one more binding to the sockets that are registered for a service
    Bind(BindArgs),
    /// Print the bindings of the running instance that overlap what is given, in the order of precedence
    Bindings(BindingsArgs),
    /// Judge a configuration file and print what would be done with it; needs no privileges
    Check(CheckArgs),
    /// Remove the routes and firewall rules that killed instances left in the network namespace
    Clean(CleanArgs),
    /// Print what a word of a command line may be, for shells; nobody types it
    #[command(hide = true)]
    Complete(CompleteArgs),
    /// Print the configuration in force, each key with who says it, or the JSON schema of the file
    Config(ConfigArgs),
    /// Become what an instance's processes are, and try what they must not be able to do
    #[command(hide = true)]
    Confined(ConfinedArgs),
    /// Deny clients at once, without touching the configuration; what is open stays. Holds over reloads, upgrades and restarts
    Deny(DenyArgs),
    /// Print whom `deny` denies and `allow --except` lets in, until when, and how often denied clients came
    Denied(DeniedArgs),
    /// Say what this host can do and what it lacks, with the cures; changes nothing, and fails if no path works
    Doctor(DoctorArgs),
    /// Ask the kernel where a packet goes, and say why; the packet counts as one that came
    Explain(ExplainArgs),
    /// Pin what steers to other programs' sockets without a process of ours: program, maps and bindings, in /sys/fs/bpf/spectrum
    Load(LoadArgs),
    /// Replace all bindings of what is pinned by those of a file
    LoadBindings(LoadBindingsArgs),
    /// Print the metrics of what is pinned, or serve them over HTTP
    Metrics(MetricsArgs),
    /// Drain an origin of a service of the running instance, or give it another weight, until it is made ready again
    Origin(OriginArgs),
    /// Steer packets of a service of the running instance to a listening socket of another program, which need not know
    Register(RegisterArgs),
    /// Make the running instance read its configuration file again
    Reload(ReloadArgs),
    /// Print what the running instance is, how it fares, and what stands in its way
    Status(StatusArgs),
    /// Print which sources the running instance turned away most in the last minute or two, by samples; with sk_lookup
    TopSources(TopSourcesArgs),
    /// Have what is pinned steer a binding no more
    Unbind(UnbindArgs),
    /// Take away all that is pinned
    Unload(UnloadArgs),
    /// Steer packets of a service to a registered socket no more: its clients are refused
    Unregister(UnregisterArgs),
    /// Make the running instance go on as another version of the program: its connections, listeners and rules stay
    Upgrade(UpgradeArgs),
    /// Say whether this version could go on with what an instance has; nobody types it
    #[command(hide = true)]
    UpgradeTrial(UpgradeTrialArgs),
    /// Give registered sockets of a service another weight among them: 0 drains
    Weight(WeightArgs),
    /// Announce a prefix to routers no more, also after a restart, until it is announced again; what comes is served on
    Withdraw(WithdrawArgs),
    /// Serve what the process that started this one says; nobody types it
    #[command(hide = true)]
    WorkerProcess,
}

/// Flags of the default command.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Prefix whose addresses are served, e.g. 192.0.2.0/24 or 2001:db8::/64; a bare address is itself alone (repeatable)
    #[arg(long = "prefix", value_name = "PREFIX", required_unless_present = "config")]
    pub prefixes: Vec<Prefix>,

    /// Ports that are served, e.g. 80,443,8000-8100 [default: 1-65535]
    #[arg(long, value_name = "RANGE", value_delimiter = ',')]
    pub ports: Vec<PortRange>,

    /// Protocols that are served: tcp, udp or both
    #[arg(long = "protocol", default_value_t, value_name = "PROTOCOL")]
    pub protocols: Protocols,

    /// Server to relay to; without PORT the dialled port is kept. Without any, answer "hello world" (repeatable)
    #[arg(long = "origin", value_name = "HOST[:PORT]")]
    pub origins: Vec<Origin>,

    /// Answer without any origin: hello, echo or discard [default: hello]
    #[arg(long, value_name = "RESPONDER", conflicts_with = "origins")]
    pub respond: Option<Responder>,

    /// File that says what to serve, in place of the flags above, or a directory of such files, *.toml; config/spectrum.toml is an
    /// example
    #[arg(long, value_name = "FILE|DIR", conflicts_with_all = ["prefixes", "ports", "protocols", "origins", "respond"])]
    pub config: Option<PathBuf>,

    /// The path of packets to the listener: auto, sk-lookup or tproxy [default: what the file says, else auto]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<ModeChoice>,

    /// The firewall that carries the rules where packets come by tproxy: auto, iptables or nftables [default: as for
    /// mode]
    #[arg(long, value_name = "FIREWALL")]
    pub firewall: Option<FirewallChoice>,

    /// The treatment of connections to what is bound by others' NAT rules: none (exempt), or what they say (heed)
    /// [default: what the file says, else exempt]
    #[arg(long, value_name = "NAT")]
    pub nat: Option<NatChoice>,

    /// Leave alone what others remove of routes, rules, tables and the program; status, explain and /readyz say what is missing
    #[arg(long)]
    pub no_repair: bool,

    /// Address and port that serve metrics and health over HTTP, e.g. 127.0.0.1:9180 [default: what the file says, else none]
    #[arg(long, value_name = "ADDR", value_parser = parse_address_and_port)]
    pub admin: Option<SocketAddr>,

    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,

    /// The time for connections to end after SIGTERM, e.g. 10s [default: what the file says, else 10s]
    #[arg(long, value_name = "TIME", value_parser = value::drain, allow_hyphen_values = true)]
    pub drain: Option<Duration>,

    /// The time for which everything is served after SIGTERM although nothing is announced any more, so that routers can send
    /// clients elsewhere; a second SIGTERM ends it [default: what the file says, else 5s where anything is announced]
    #[arg(long, value_name = "TIME", value_parser = value::drain, allow_hyphen_values = true)]
    pub lame_duck: Option<Duration>,

    /// Worker threads, each with a listener of its own [default: what the file says, else one for each core]
    #[arg(long, value_name = "COUNT", value_parser = value::workers, allow_negative_numbers = true)]
    pub workers: Option<NonZeroUsize>,

    /// The form of log lines and connection records: text or json [default: what the file says, else text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,

    /// The connections that leave a record: all, failures or none [default: what the file says, else all]
    #[arg(long, value_name = "WHICH")]
    pub log_records: Option<Records>,

    /// Share of the connections that leave a record, of those that did not fail, e.g. 1/100
    #[arg(long, value_name = "SHARE")]
    pub log_sample: Option<Sample>,

    /// Records of connections that their client ended before a byte came, as load balancers' checks are: true or false
    #[arg(long, value_name = "WHETHER")]
    pub log_empty: Option<bool>,

    /// Write a record also when a connection begins to carry bytes, not only when it is over
    #[arg(long)]
    pub log_opened: bool,

    /// Serve addresses of this host's interfaces, or that of --admin, although that cuts who listens there: those of PREFIX,
    /// or all (repeatable)
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "all")]
    pub force: Vec<Forced>,

    /// User that the worker process is, by name or number [default: what the file says, else spectrum, or nobody where there is no
    /// such user]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,

    /// Serve on threads of one process, for debuggers: whoever breaks in has all of its privileges, and a crash ends all
    #[arg(long, conflicts_with = "user")]
    pub single_process: bool,

    /// Pin what steers in a BPF file system: packets reach registered sockets also when this program has been killed or stopped, until
    /// `unload` or a start without it; takes sk_lookup
    #[arg(long)]
    pub pin: bool,
}

/// Flags of `announce`.
#[derive(Args, Clone, Debug)]
pub struct AnnounceArgs {
    /// Prefix as `status` prints it [default: all that are to be announced]
    #[arg(value_name = "PREFIX")]
    pub prefix: Option<Prefix>,

    /// Print configuration for BIRD 2 that passes on what this program announces; asks no instance
    #[arg(long, conflicts_with_all = ["prefix", "frr"])]
    pub bird: bool,

    /// Print configuration for FRR that does; asks no instance
    #[arg(long, conflicts_with = "prefix")]
    pub frr: bool,

    /// File whose prefixes the configuration is to admit, and no other
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prefix", "netns", "instance", "json"])]
    pub config: Option<PathBuf>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `withdraw`.
#[derive(Args, Clone, Debug)]
pub struct WithdrawArgs {
    /// Prefix as `status` prints it [default: all that are to be announced]
    #[arg(value_name = "PREFIX")]
    pub prefix: Option<Prefix>,

    /// The reason, which `status` shows
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `clean`.
#[derive(Args, Clone, Debug)]
pub struct CleanArgs {
    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// Flags of `complete`.
#[derive(Args, Clone, Debug)]
pub struct CompleteArgs {
    /// The number of the word that is to be completed, the program's name being 0
    #[arg(long, value_name = "N")]
    pub index: usize,

    /// The command line as far as it is typed, the program's name first
    #[arg(last = true, value_name = "WORD")]
    pub words: Vec<OsString>,
}

/// Flags of `confined`.
#[derive(Args, Clone, Debug)]
pub struct ConfinedArgs {
    /// The process to become
    #[arg(value_name = "PROCESS")]
    pub process: ConfinedProcess,

    /// File that says what is to be served
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// User of the worker process
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
}

/// A process of an instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ConfinedProcess {
    /// None: with all that whoever started it may do
    None,
    /// The steerer, which starts the other
    Steerer,
    /// The worker process
    Worker,
}

/// Flags of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// File to judge, or directory of files
    #[arg(long, value_name = "FILE|DIR")]
    pub config: PathBuf,

    /// Ask for the names of origins as well, as a start does, and refuse those that have no address
    #[arg(long)]
    pub resolve: bool,

    /// Print what a reload with this configuration would change of the running instance. Exit codes as diff has them: 0 nothing, 1
    /// something, more: there is no telling
    #[arg(long, conflicts_with = "resolve")]
    pub diff: bool,

    /// The instance, and the form of the answer
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `config`.
#[derive(Args, Clone, Debug)]
#[group(id = "printed", required = true, multiple = false, args = ["effective", "schema"])]
pub struct ConfigArgs {
    /// Print all that holds, as a file that says it: of --config, or else of the running instance
    #[arg(long)]
    pub effective: bool,

    /// Print the JSON schema of a configuration file, for editors
    #[arg(long)]
    pub schema: bool,

    /// File, or directory of files, whose configuration is printed; without it that of the running instance
    #[arg(long, value_name = "FILE|DIR", conflicts_with = "schema")]
    pub config: Option<PathBuf>,

    /// The instance
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// File, or directory of files, that says what is to be served, so that what is in its way can be found
    #[arg(long, value_name = "FILE|DIR")]
    pub config: Option<PathBuf>,

    /// Network namespace to look at: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The instance that is asked, and the form of its answer.
#[derive(Args, Clone, Debug)]
pub struct InstanceArgs {
    /// Network namespace of the instance: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,

    /// The instance, where the namespace has several: its id, as `status` and the error have it, or its process id
    #[arg(long, value_name = "ID")]
    pub instance: Option<InstanceName>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Services to show; without any all, or a summary where there are very many
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,

    /// Show services with a binding of this protocol: tcp or udp
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,

    /// Show services with a binding that overlaps this prefix
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<Prefix>,

    /// Show services of which something is wrong, and of their origins those that get no connections though they should
    #[arg(long)]
    pub only_wrong: bool,

    /// Show every service, however many there are
    #[arg(long, conflicts_with = "only_wrong")]
    pub all: bool,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `register`.
#[derive(Args, Clone, Debug)]
#[group(id = "process", multiple = false, args = ["pid", "pidfile", "unit", "command"])]
pub struct RegisterArgs {
    /// Service that the file says registered = true of
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// Address and port that the socket is bound to, as ss -l prints them, where the process has several that fit; of sockets that are
    /// made for a command where they are to be [default: loopback addresses]
    #[arg(value_name = "ADDR:PORT", value_parser = parse_address_and_port)]
    pub address: Option<SocketAddr>,

    /// Command that gets the sockets: those that this process was passed itself (LISTEN_FDS), or else new ones, one for each protocol and
    /// family that the service binds. It takes the place of this process, and finds them as sd_listen_fds(3) says
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["json", "netns"])]
    pub command: Vec<OsString>,

    /// Process that has the socket
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,

    /// File with the id of that process, as many servers write one
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,

    /// Unit of systemd whose processes have it, e.g. nginx.service
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,

    /// Take sockets of this protocol alone: tcp or udp
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,

    /// Put it beside the sockets that are registered, with this weight, 0 to 256, among them [default: in the place of all of them]
    #[arg(long, value_name = "N")]
    pub weight: Option<Weight>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `weight`.
#[derive(Args, Clone, Debug)]
pub struct WeightArgs {
    /// Service that the file says registered = true of
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// Weight among the registered sockets, 0 to 256; 0 drains: no new clients, and what is open stays
    #[arg(value_name = "N")]
    pub weight: Weight,

    /// Address and port that the socket is bound to, as `status` prints them [default: all sockets of the service]
    #[arg(value_name = "ADDR:PORT", value_parser = parse_address_and_port)]
    pub address: Option<SocketAddr>,

    /// Change sockets of this protocol alone: tcp or udp
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `unregister`.
#[derive(Args, Clone, Debug)]
pub struct UnregisterArgs {
    /// Service that the file says registered = true of
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// Address and port that the socket is bound to, as `status` prints them [default: all sockets of the service]
    #[arg(value_name = "ADDR:PORT", value_parser = parse_address_and_port)]
    pub address: Option<SocketAddr>,

    /// Let go of sockets of this protocol alone: tcp or udp
    #[arg(long, value_name = "PROTOCOL")]
    pub protocol: Option<Protocol>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `reload`.
#[derive(Args, Clone, Debug)]
pub struct ReloadArgs {
    /// Serve addresses of the host's interfaces although that cuts who listens there: those of PREFIX, or all (repeatable);
    /// the next start needs it too, or force under [dispatcher]
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "all")]
    pub force: Vec<Forced>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `upgrade`.
#[derive(Args, Clone, Debug)]
pub struct UpgradeArgs {
    /// Program of the other version; root's to name [default: what is at the path of the running one now]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Words of `upgrade-trial`.
#[derive(Args, Clone, Debug)]
pub struct UpgradeTrialArgs {
    /// The words that the instance was started with
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// Flags of `bindings`.
#[derive(Args, Clone, Debug)]
pub struct BindingsArgs {
    /// Parts that the bindings must overlap, each at most once: tcp or udp, a prefix, port ranges such as 80,8000-8100
    #[arg(value_name = "PROTOCOL|PREFIX|PORTS", num_args = 0..=3)]
    pub words: Vec<String>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

impl BindingsArgs {
    /// The query that the words stand for. What they say is for the instance to judge.
    ///
    /// # Errors
    /// As clap reports usage errors, when two words are of one kind.
    pub fn query(&self) -> Result<BindingsQuery, clap::Error> {
        let mut query = BindingsQuery::default();
        for word in &self.words {
            let (twice, cure) = match word.parse::<Protocol>() {
                Ok(protocol) => {
                    let cure = "leave the protocol out for both".to_owned();
                    (query.protocol.replace(protocol).is_some(), cure)
                }
                Err(_) if word.contains(['.', ':', '/']) => {
                    let cure = "ask for one prefix, then for the other".to_owned();
                    (query.prefix.replace(word.clone()).is_some(), cure)
                }
                Err(_) if word.starts_with(|first: char| first.is_ascii_alphabetic()) => {
                    let message = format!(
                        "{word}: a protocol is tcp or udp, and left out for both, as in `bindings tcp 192.0.2.0/24 \
                         80,8000-8100`"
                    );
                    return Err(misused("bindings", message));
                }
                Err(_) => {
                    let before = query.ports.replace(word.clone());
                    let cure = before.as_ref().map(|before| format!("write {before},{word}"));
                    (before.is_some(), cure.unwrap_or_default())
                }
            };
            if twice {
                let message = format!(
                    "{word}: a protocol, a prefix and ports may be given once each, as in `bindings tcp 192.0.2.0/24 \
                     80,8000-8100`; {cure}"
                );
                return Err(misused("bindings", message));
            }
        }
        Ok(query)
    }
}

/// Flags of `explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// tcp or udp
    #[arg(value_name = "PROTOCOL")]
    pub protocol: Protocol,

    /// The address and port that the packet dials, e.g. 192.0.2.7:8443; an IPv6 address stands in brackets
    #[arg(value_name = "ADDRESS:PORT", value_parser = parse_address_and_port)]
    pub dialled: SocketAddr,

    /// The source of the packet [default: an address of documentation's]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = parse_address_and_port)]
    pub from: Option<SocketAddr>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `top-sources`.
#[derive(Args, Clone, Debug)]
pub struct TopSourcesArgs {
    /// The service [default: each]
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `deny`.
#[derive(Args, Clone, Debug)]
pub struct DenyArgs {
    /// The service whose clients are meant, if not those of all; then their prefixes. `-` reads more of them from standard
    /// input, one a line
    #[arg(value_name = "SERVICE|PREFIX|-", required = true)]
    pub words: Vec<String>,

    /// The time for which it holds, e.g. 10m; a bare number is seconds [default: until `allow` takes it back]
    #[arg(long = "for", value_name = "TIME", value_parser = value::holding)]
    pub time: Option<Duration>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `allow`.
#[derive(Args, Clone, Debug)]
pub struct AllowArgs {
    /// The service for which it was said, if not for all; then the prefixes as they were denied. `-` reads more of them from
    /// standard input, one a line
    #[arg(value_name = "SERVICE|PREFIX|-", required = true)]
    pub words: Vec<String>,

    /// Let them in although they, or wider prefixes, are denied, at run time or by the configuration
    #[arg(long)]
    pub except: bool,

    /// Take such exceptions back
    #[arg(long, conflicts_with = "except")]
    pub undo: bool,

    /// The time for which an exception holds, e.g. 10m; a bare number is seconds [default: until it is taken back]
    #[arg(long = "for", value_name = "TIME", value_parser = value::holding, requires = "except")]
    pub time: Option<Duration>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `denied`.
#[derive(Args, Clone, Debug)]
pub struct DeniedArgs {
    /// The service; what is said of all services is shown with it [default: all]
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Flags of `origin`.
#[derive(Args, Clone, Debug)]
pub struct OriginArgs {
    /// The service
    #[arg(value_name = "SERVICE")]
    pub service: String,

    /// Its origin as the file has it, or as `status` prints it; an ADDRESS is one address of a name
    #[arg(value_name = "ORIGIN|ADDRESS")]
    pub origin: String,

    /// The new setting
    #[arg(value_name = "SETTING")]
    pub setting: OriginSettingArg,

    /// Its share of the connections, 0 to 256; with `weight` and there alone
    #[arg(value_name = "N")]
    pub weight: Option<Weight>,

    /// The instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// The setting of an origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum OriginSettingArg {
    /// No new connections; those that are open go on
    Drain,
    /// As the file has it
    Ready,
    /// Another share of the connections, whatever the file says
    Weight,
}

impl OriginArgs {
    /// The query that these words mean.
    ///
    /// # Errors
    /// As clap reports usage errors, where a weight is missing or too much.
    pub fn query(&self) -> Result<OriginQuery, clap::Error> {
        let setting = match (self.setting, self.weight) {
            (OriginSettingArg::Drain, None) => OriginSetting::Drain,
            (OriginSettingArg::Ready, None) => OriginSetting::Ready,
            (OriginSettingArg::Weight, Some(weight)) => OriginSetting::Weight(weight),
            (OriginSettingArg::Weight, None) => {
                let message = "weight: say which, 0 to 256, as in `origin web 203.0.113.10 weight 3`";
                return Err(misused("origin", message.to_owned()));
            }
            (OriginSettingArg::Drain | OriginSettingArg::Ready, Some(weight)) => {
                let message =
                    format!("{}: a number goes with weight alone, as in `weight {0}`", weight.get());
                return Err(misused("origin", message));
            }
        };
        Ok(OriginQuery { service: self.service.clone(), origin: self.origin.clone(), setting })
    }
}

impl RunArgs {
    /// The keys that the flags set about records, whatever the file says in general.
    #[must_use]
    pub fn record_keys(&self) -> RecordKeys {
        RecordKeys {
            records: self.log_records,
            sample: self.log_sample,
            opened: self.log_opened.then_some(true),
            empty: self.log_empty,
        }
    }

    /// The flags that were typed and win over a key of the file, each with that key and its value as TOML.
    #[must_use]
    pub fn overriding(&self) -> Vec<(&'static str, &'static str, String)> {
        fn word(value: Option<impl std::fmt::Display>) -> Option<String> {
            value.map(|value| format!("\"{value}\""))
        }
        let flags = [
            ("--mode", "dispatcher.mode", word(self.mode)),
            ("--firewall", "dispatcher.firewall", word(self.firewall)),
            ("--nat", "dispatcher.nat", word(self.nat)),
            ("--no-repair", "dispatcher.repairs-per-minute", self.no_repair.then(|| "0".to_owned())),
            ("--admin", "admin.listen", word(self.admin)),
            ("--netns", "instance.netns", word(self.netns.as_ref())),
            ("--drain", "instance.drain", word(self.drain.map(humantime::format_duration))),
            ("--workers", "instance.workers", self.workers.map(|count| count.to_string())),
            ("--user", "instance.user", word(self.user.as_ref())),
            ("--single-process", "instance.single-process", self.single_process.then(|| "true".to_owned())),
            ("--pin", "instance.pin", self.pin.then(|| "true".to_owned())),
            ("--log-format", "log.format", word(self.log_format)),
            ("--log-records", "log.records", word(self.log_records)),
            ("--log-sample", "log.sample", word(self.log_sample)),
            ("--log-empty", "log.empty", self.log_empty.map(|empty| empty.to_string())),
            ("--log-opened", "log.opened", self.log_opened.then(|| "true".to_owned())),
        ];
        flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect()
    }

    /// The keys that the flags set about the instance, whatever the file says.
    #[must_use]
    pub fn instance_keys(&self) -> InstanceKeys {
        InstanceKeys {
            drain: self.drain,
            workers: self.workers,
            user: self.user.clone(),
            netns: self.netns.clone(),
            single_process: self.single_process.then_some(true),
            pin: self.pin.then_some(true),
        }
    }

    /// The configuration that the flags stand for when there is no file.
    ///
    /// # Errors
    /// As clap reports usage errors.
    pub fn short_form(&self) -> Result<Planned, clap::Error> {
        let flags = Flags {
            prefixes: self.prefixes.clone(),
            ports: self.ports.clone(),
            protocols: self.protocols,
            origins: self.origins.clone(),
            respond: self.respond,
            mode: self.mode.unwrap_or_default(),
            firewall: self.firewall.unwrap_or_default(),
            nat: self.nat.unwrap_or_default(),
            admin: self.admin,
        };
        flags.into_config().map_err(|error| Cli::command().error(ErrorKind::ValueValidation, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn words_about_bindings_may_come_in_any_order() {
        let query = |line: &str| match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Some(Command::Bindings(args))) => args.query(),
            other => panic!("{other:?}"),
        };
        let expected = BindingsQuery {
            protocol: Some(Protocol::Udp),
            prefix: Some("2001:db8::/64".into()),
            ports: Some("53,80".into()),
        };
        assert_eq!(query("spectrum-user bindings udp 2001:db8::/64 53,80").unwrap(), expected);
        assert_eq!(query("spectrum-user bindings 53,80 2001:db8::/64 udp").unwrap(), expected);
        assert_eq!(query("spectrum-user bindings --json").unwrap(), BindingsQuery::default());
        for (line, cure) in [
            ("spectrum-user bindings 53 80", "write 53,80"),
            ("spectrum-user bindings tcp udp", "leave the protocol out for both"),
            (
                "spectrum-user bindings both 198.51.100.7",
                "both: a protocol is tcp or udp, and left out for both",
            ),
            ("spectrum-user bindings 192.0.2.0/24 ::/0", "ask for one prefix, then for the other"),
        ] {
            let error = query(line).unwrap_err().to_string();
            assert!(error.contains("as in `bindings tcp 192.0.2.0/24 80,8000-8100`"), "{error}");
            assert!(error.contains(cure) && error.contains("Usage: spectrum-user bindings "), "{error}");
        }
    }

    fn refusal(line: &str) -> String {
        Cli::parse_words(line.split(' ').map(OsString::from)).unwrap_err().to_string()
    }

    #[test]
    fn an_address_without_a_port_is_told_how_to_have_one() {
        for (line, cure) in [
            ("explain tcp 192.0.2.1", "the port is missing; write 192.0.2.1:PORT"),
            ("explain tcp 2001:db8::1", "the port is missing; write [2001:db8::1]:PORT"),
            ("explain tcp 2001:db8:7::5:80", "write [2001:db8:7::5]:80"),
            ("explain tcp [2001:db8::1]", "the port is missing; write [2001:db8::1]:PORT"),
            ("explain tcp host.example:80", "as in 192.0.2.7:8443 or [2001:db8::7]:8443"),
            ("explain tcp 192.0.2.1:80 --from 192.0.2.2", "write 192.0.2.2:PORT"),
            ("--prefix 192.0.2.0/24 --admin 127.0.0.1", "write 127.0.0.1:PORT"),
        ] {
            let error = refusal(&format!("spectrum-user {line}"));
            assert!(error.contains(cure), "{error}");
        }
    }

    #[test]
    fn a_bad_value_is_told_with_its_flag_and_the_cure() {
        for (line, flag, cure) in [
            ("--prefix ::1 --drain soon", "'soon' for '--drain <TIME>'", "write it as in 10s"),
            ("--prefix ::1 --drain -1s", "'-1s' for '--drain <TIME>'", "write it as in 10s"),
            ("--prefix ::1 --workers -1", "'-1' for '--workers <COUNT>'", "not a number from 1 to 4096"),
            ("--prefix ::1 --drain 10", "'10' for '--drain <TIME>'", "write it as in 10s"),
            ("--prefix ::1 --workers 0", "'0' for '--workers <COUNT>'", "leave --workers out for one worker"),
            ("--prefix ::1 --workers many", "'many' for '--workers <COUNT>'", "not a number from 1 to 4096"),
            ("status --instance web", "'web' for '--instance <ID>'", "as in 3fa2c1"),
            ("reload --instance 4711-", "'4711-' for '--instance <ID>'", "as in 3fa2c1"),
            ("bindings --instance 99999999999", "'99999999999' for '--instance <ID>'", "as in 3fa2c1"),
        ] {
            let error = refusal(&format!("spectrum-user {line}"));
            assert!(error.contains(flag) && error.contains(cure), "{error}");
        }
    }

    #[test]
    fn flags_beside_a_file_are_refused_with_the_cure() {
        for flags in
            ["--prefix 192.0.2.0/24", "--ports 80", "--origin a.example", "--respond echo", "--protocol udp"]
        {
            for line in [format!("{flags} --config f.toml"), format!("--config f.toml {flags}")] {
                let error = refusal(&format!("spectrum-user {line}"));
                assert!(error.contains("cannot be used with"), "{error}");
                assert!(error.contains("write it there, as a [[service]], or leave --config out"), "{error}");
            }
        }
        assert!(
            !refusal("spectrum-user --prefix 192.0.2.0/24 --origin a --respond echo").contains("[[service]]")
        );
    }
}
