//! Why firewall rules could not be applied or removed, from what the programs said. Does not print: `main` does, once.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use crate::model::visible;
use crate::plan::firewall::{ChainPlace, TableFamily, TooManyBindings};

/// The error of listing, applying or removing firewall rules.
#[derive(Debug, thiserror::Error)]
pub enum TproxyError {
    /// The process lacks `CAP_NET_ADMIN`.
    #[error("{op} firewall rules with {program}: Operation not permitted (needs CAP_NET_ADMIN; try sudo)")]
    Denied {
        /// The operation that failed, a verb.
        op: &'static str,
        /// The program that was refused.
        program: String,
    },
    /// The rules were refused for another reason.
    #[error("{op} firewall rules with {program}: {said}")]
    Failed {
        /// The operation that failed, a verb.
        op: &'static str,
        /// The program.
        program: String,
        /// Its words, in one line.
        said: String,
    },
    /// A program did not end, and was ended.
    #[error(
        "{op} firewall rules with {program}: it has not ended within {} s and was killed (see what holds it: \
         ps -C {program} -o pid,wchan:20,args)",
        .waited.as_secs()
    )]
    Hung {
        /// The operation that failed, a verb.
        op: &'static str,
        /// The program.
        program: String,
        /// The time that we waited.
        waited: Duration,
    },
    /// We were told to stop meanwhile.
    #[error("{op} firewall rules with {program}: given up, being told to stop")]
    Interrupted {
        /// The operation that failed, a verb.
        op: &'static str,
        /// The program.
        program: String,
    },
    /// Another program has been changing the firewall for longer than we wait.
    #[error(
        "{op} firewall rules with {program}: another program holds the lock of iptables (see: fuser /run/xtables.lock)"
    )]
    Locked {
        /// The operation that failed, a verb.
        op: &'static str,
        /// The program.
        program: String,
    },
    /// Neither firewall would do.
    #[error("{}", listed(.0))]
    None(Vec<TproxyError>),
    /// More bindings than the firewall can carry.
    #[error(transparent)]
    TooMany(#[from] TooManyBindings),
    /// The kernel or the program lacks something that the rules need.
    #[error("{op} firewall rules with {program}: {said} ({})", cure(program, *purpose))]
    ExtensionMissing {
        /// The purpose of the rules.
        purpose: Purpose,
        /// The operation that failed, a verb.
        op: &'static str,
        /// The program.
        program: String,
        /// Its words, in one line.
        said: String,
    },
    /// The program is not installed.
    #[error(
        "find {program}: not in PATH or the sbin directories{} (try: apt install {})",
        insistence(*purpose),
        package(program)
    )]
    ProgramMissing {
        /// The purpose of the rules that it was to make.
        purpose: Purpose,
        /// The program that was looked for.
        program: String,
    },
    /// A program could not be run.
    #[error("run {program}")]
    Run {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// The legacy variant got no table from the kernel, and does not say why.
    #[error(
        "{op} firewall rules with {program}: {said} (iptables-legacy needs CAP_NET_RAW too; or try: modprobe -a \
         iptable_mangle ip6table_mangle)"
    )]
    TableMissing {
        /// The operation that failed, a verb.
        op: &'static str,
        /// The program.
        program: String,
        /// Its words, in one line.
        said: String,
    },
    /// Rules that had been applied before the failure could not all be removed again.
    #[error("{source}; then {}", listed(.undo))]
    Undo {
        /// The failure.
        source: Box<TproxyError>,
        /// The errors of undoing.
        undo: Vec<TproxyError>,
    },
}

/// A purpose of firewall rules. Each needs different things of the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Exempting from NAT.
    Exemption,
    /// Marking origins' answers to clients' addresses.
    Replies,
    /// Steering by TPROXY.
    Steering,
}

impl Purpose {
    /// The purpose of a part of ours in `place`.
    pub(super) fn of(place: &ChainPlace) -> Self {
        match place {
            ChainPlace::Exemption => Self::Exemption,
            ChainPlace::Table(TableFamily::Inet) => Self::Replies,
            ChainPlace::Mangle(_) | ChainPlace::Table(TableFamily::Ip | TableFamily::Ip6) => Self::Steering,
        }
    }
}

fn is_nft(program: &str) -> bool {
    program == "nft"
}

fn package(program: &str) -> &'static str {
    if is_nft(program) { "nftables" } else { "iptables" }
}

fn cure(program: &str, purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Exemption => "the kernel needs CONFIG_NFT_NAT; try: modprobe -a nft_chain_nat nft_nat",
        Purpose::Replies => {
            "the kernel needs CONFIG_NFT_SOCKET and CONFIG_NFT_FIB_INET; try: modprobe -a nft_socket nft_fib_inet"
        }
        Purpose::Steering if is_nft(program) => {
            "the kernel needs CONFIG_NFT_TPROXY; try: modprobe nft_tproxy; and for prefixes of length 0: modprobe -a \
             nft_fib_ipv4 nft_fib_ipv6"
        }
        Purpose::Steering => {
            "the kernel needs CONFIG_NETFILTER_XT_TARGET_TPROXY and CONFIG_NETFILTER_XT_MATCH_SOCKET; try: modprobe -a \
             xt_TPROXY xt_socket"
        }
    }
}

/// Why another program would not do, to whoever chose another.
fn insistence(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Exemption => "; exempting from NAT takes it, whatever steers",
        Purpose::Replies => "; transparent origins on other hosts take it, whatever steers",
        Purpose::Steering => "",
    }
}

fn listed(errors: &[TproxyError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl TproxyError {
    /// The error of `program` having ended with `status` after writing `stderr`.
    pub(super) fn said(op: &'static str, program: &str, status: ExitStatus, stderr: &str) -> Self {
        let program = program.to_owned();
        let lower = stderr.to_ascii_lowercase();
        let any = |pieces: &[&str]| pieces.iter().any(|piece| lower.contains(piece));
        let said = said(stderr).unwrap_or_else(|| format!("it ended with {status} and said nothing"));
        if any(&["you must be root", "operation not permitted", "permission denied"]) {
            Self::Denied { op, program }
        } else if any(&["holding the xtables lock", "resource temporarily unavailable"]) {
            Self::Locked { op, program }
        } else if any(&[
            "couldn't load target",
            "couldn't load match",
            "missing kernel module",
            "no chain/target/match by that name",
            "no such file or directory",
            "rule_append failed (no such",
            "rule_append failed (operation not supported",
            "can't initialize ip",
            "failed to initialize nft",
            "could not process rule: operation not supported",
            "unable to initialize netlink socket: protocol not supported",
            "cache initialization failed: invalid argument",
        ]) {
            Self::ExtensionMissing { purpose: Purpose::Steering, op, program, said }
        } else if any(&["unable to initialize table"]) {
            Self::TableMissing { op, program, said }
        } else {
            Self::Failed { op, program, said }
        }
    }

    /// The same, after what was done before could be undone but for `undo`.
    pub(super) fn after(self, undo: Vec<Self>) -> Self {
        if undo.is_empty() { self } else { Self::Undo { source: Box::new(self), undo } }
    }

    /// The same of rules that were for `purpose`.
    pub(super) fn meant_for(mut self, purpose: Purpose) -> Self {
        if let Self::ExtensionMissing { purpose: of, .. } | Self::ProgramMissing { purpose: of, .. } =
            &mut self
        {
            *of = purpose;
        }
        self
    }

    /// The obstacle, without what we were doing and without the cure.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Denied { .. } => "Operation not permitted".to_owned(),
            Self::ExtensionMissing { said, .. }
            | Self::Failed { said, .. }
            | Self::TableMissing { said, .. } => said.clone(),
            Self::ProgramMissing { program, .. } => format!("{program} is not installed"),
            Self::Run { program, source } => format!("{program} does not run: {source}"),
            Self::Hung { .. }
            | Self::Interrupted { .. }
            | Self::Locked { .. }
            | Self::None(_)
            | Self::TooMany(_)
            | Self::Undo { .. } => self.to_string(),
        }
    }

    /// The capability that was missing, if that was the cause.
    #[must_use]
    pub fn not_permitted(&self) -> Option<&'static str> {
        match self {
            Self::Denied { .. } => Some("CAP_NET_ADMIN"),
            Self::None(errors) => errors.iter().find_map(Self::not_permitted),
            Self::Undo { source, .. } => source.not_permitted(),
            _ => None,
        }
    }
}

/// The first line that says something, without the program's name and version before it.
fn said(stderr: &str) -> Option<String> {
    let line = stderr.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let said = match line.split_once("): ") {
        Some((program, said)) if program.contains("tables") => said,
        _ => line,
    };
    Some(visible(said).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn error(stderr: &str) -> TproxyError {
        TproxyError::said("apply", "iptables-restore", ExitStatus::from_raw(4 << 8), stderr)
    }

    #[test]
    fn refusals_of_both_variants_name_the_capability() {
        for stderr in [
            "iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n\n",
            "Fatal: can't open lock file /run/xtables.lock: Permission denied\n",
            "iptables-restore v1.8.9 (legacy): can't initialize iptables table `mangle': Permission denied (you must be root)\n",
        ] {
            assert_eq!(error(stderr).not_permitted(), Some("CAP_NET_ADMIN"), "{stderr}");
        }
    }

    #[test]
    fn a_missing_extension_names_the_modules() {
        for stderr in [
            "iptables-restore v1.8.9 (legacy): Couldn't load target `TPROXY':No such file or directory\n\nError occurred at line: 2\n",
            "Warning: Extension TPROXY revision 0 not supported, missing kernel module?\niptables-restore v1.8.9 (nf_tables): \nline 5: RULE_APPEND failed (No such file or directory): rule in chain SPECTRUM-1\n",
        ] {
            let error = error(stderr);
            assert!(matches!(error, TproxyError::ExtensionMissing { .. }), "{error}");
            assert!(error.to_string().contains("modprobe -a xt_TPROXY xt_socket"), "{error}");
        }
    }

    #[test]
    fn the_reply_mark_names_its_own_modules_and_why_nft_it_is() {
        let lacks = "Error: Could not process rule: No such file or directory\n";
        let status = ExitStatus::from_raw(1 << 8);
        let error = TproxyError::said("apply", "nft", status, lacks).meant_for(Purpose::Replies).to_string();
        assert!(error.contains("modprobe -a nft_socket nft_fib_inet"), "{error}");
        assert!(!error.contains("tproxy"), "{error}");
        let missing = TproxyError::ProgramMissing { purpose: Purpose::Steering, program: "nft".to_owned() };
        assert_eq!(
            missing.to_string(),
            "find nft: not in PATH or the sbin directories (try: apt install nftables)"
        );
        assert_eq!(
            missing.meant_for(Purpose::Replies).to_string(),
            "find nft: not in PATH or the sbin directories; transparent origins on other hosts take it, whatever steers \
             (try: apt install nftables)"
        );
    }

    #[test]
    fn a_held_lock_is_told_from_other_failures() {
        let held = "Another app is currently holding the xtables lock; still 4s 0us time ahead to have a chance to grab the lock...\n";
        assert!(matches!(error(held), TproxyError::Locked { .. }));
    }

    #[test]
    fn other_failures_repeat_the_program_in_one_line() {
        let stderr = "iptables-restore v1.8.9 (nf_tables): Chain 'FOO' does not exist\nError occurred at line: 3\nTry `iptables-restore -h'\n";
        assert_eq!(
            error(stderr).to_string(),
            "apply firewall rules with iptables-restore: Chain 'FOO' does not exist"
        );
        assert!(error("").to_string().contains("said nothing"));
    }
}
