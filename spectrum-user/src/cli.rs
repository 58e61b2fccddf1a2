//! The command line: what may be typed, and the help that says so. Acts on nothing.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::config::{Config, FirewallChoice, Flags, ModeChoice};
use crate::model::{Origin, PortRange, Prefix};
use crate::observe::LogFormat;

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
    /// What to run.
    #[command(flatten)]
    pub run: RunArgs,
}

/// A verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Remove the routes and firewall rules that killed instances left in the network namespace
    Clean(CleanArgs),
}

/// Flags of the default command.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Prefix whose addresses are served, e.g. 192.0.2.0/24 or 2001:db8::/64; a bare address is itself alone [repeatable]
    #[arg(long = "prefix", value_name = "PREFIX", required = true)]
    pub prefixes: Vec<Prefix>,

    /// Ports that are served, e.g. 80,443,8000-8100 [default: 1-65535]
    #[arg(long, value_name = "RANGE", value_delimiter = ',')]
    pub ports: Vec<PortRange>,

    /// Server to relay to; without PORT the dialled port is kept. Without any, answer "hello world" [repeatable]
    #[arg(long = "origin", value_name = "HOST[:PORT]")]
    pub origins: Vec<Origin>,

    /// How packets reach the listener: auto, sk-lookup or tproxy
    #[arg(long, default_value_t, value_name = "MODE")]
    pub mode: ModeChoice,

    /// What carries the rules where packets come by tproxy: auto, iptables or nftables
    #[arg(long, default_value_t, value_name = "FIREWALL")]
    pub firewall: FirewallChoice,

    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,

    /// How long connections may go on after SIGTERM, e.g. 10s
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub drain: Duration,

    /// Worker threads, each with a listener of its own [default: one for each core]
    #[arg(long, value_name = "COUNT")]
    pub workers: Option<NonZeroUsize>,

    /// How log lines and connection records are written
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormatArg,

    /// Serve prefixes that cover addresses of this host's interfaces
    #[arg(long)]
    pub force: bool,
}

/// Flags of `clean`.
#[derive(Args, Clone, Debug)]
pub struct CleanArgs {
    /// Network namespace to work in: a name that `ip netns` knows, or a path
    #[arg(long, value_name = "NAME|PATH")]
    pub netns: Option<String>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum LogFormatArg {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(format: LogFormatArg) -> Self {
        match format {
            LogFormatArg::Json => Self::Json,
            LogFormatArg::Text => Self::Text,
        }
    }
}

impl RunArgs {
    /// The configuration that the flags stand for.
    ///
    /// # Errors
    /// As clap reports usage errors.
    pub fn config(&self) -> Result<Config, clap::Error> {
        let flags = Flags {
            prefixes: self.prefixes.clone(),
            ports: self.ports.clone(),
            origins: self.origins.clone(),
            mode: self.mode,
            firewall: self.firewall,
        };
        flags
            .into_config()
            .map_err(|error| Cli::command().error(clap::error::ErrorKind::ValueValidation, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
