//! The list of the kernels that the tests run on, where each comes from, and what is expected of it. Fetches nothing.

use std::fmt;

/// A kernel to test on.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Its name for `--kernel`.
    pub(super) name: &'static str,
    /// Its origin.
    pub(super) source: Source,
    /// When the tests run on it.
    pub(super) occasion: Occasion,
    /// Added to its command line.
    pub(super) parameters: &'static str,
    /// A system call that no process of the guest has.
    pub(super) refuses: Option<Call>,
    /// Only tests with one of these in their names, if there are any here.
    pub(super) only: &'static [&'static str],
    /// The path that `--mode auto` must take on it.
    pub(super) path: Path,
    /// The needs of tests that it does not meet. A skip for want of anything else is a failure, and so is none for want
    /// of one of these.
    pub(super) lacks: &'static [&'static str],
}

/// When the tests run on a kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Occasion {
    /// Each time that somebody runs `vmtest`.
    Always,
    /// With `--full`, or when it is named.
    Full,
}

/// A system call that a filter takes away from the processes of a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(super) enum Call {
    /// bpf(2), which then answers as in a kernel that is built without it.
    Bpf,
}

/// The path that is expected of `--mode auto`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Path {
    /// The eBPF program.
    SkLookup,
    /// Firewall rules.
    Tproxy,
}

/// The origin of a kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// Debian's package of the newest version between this prefix and `-cloud-amd64`.
    Debian(&'static str),
    /// Compiled here, from Debian's sources.
    Compiled(Compiled),
}

/// A kernel that nobody packages any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compiled {
    /// Without bpf(2).
    NoBpf,
    /// With bpf(2), but without the program type `sk_lookup`: as kernels before 5.9 are.
    NoSkLookup,
}

/// Every kernel, the slowest first, so that none runs alone at the end.
pub(super) const KERNELS: [Kernel; 8] = [
    Kernel::debian("7", "linux-image-7.", Occasion::Always),
    Kernel::debian("6.12", "linux-image-6.12.", Occasion::Full),
    Kernel::debian("6.1", "linux-image-6.1.0-", Occasion::Full),
    Kernel::debian("5.10", "linux-image-5.10.0-", Occasion::Always),
    // What a kernel built without bpf(2) comes to, without the minutes that compiling one takes.
    Kernel {
        refuses: Some(Call::Bpf),
        path: Path::Tproxy,
        lacks: &["bpf"],
        ..Kernel::debian("refused-bpf", "linux-image-6.1.0-", Occasion::Always)
    },
    Kernel::compiled("no-sk-lookup", Compiled::NoSkLookup),
    Kernel::compiled("no-bpf", Compiled::NoBpf),
    Kernel {
        parameters: "ipv6.disable=1",
        // Most cases serve both families at once.
        only: &[
            "alone_is_enough",
            "any_port_of_any_address",
            "auto_takes_the_path",
            "host_prefix_is_one_address",
            "verifier_takes",
            "want_of_",
        ],
        lacks: &["ipv6"],
        ..Kernel::debian("no-ipv6", "linux-image-6.1.0-", Occasion::Full)
    },
];

impl Kernel {
    /// Debian's of the newest version that begins like this, which lacks nothing.
    const fn debian(name: &'static str, prefix: &'static str, occasion: Occasion) -> Self {
        Self {
            name,
            source: Source::Debian(prefix),
            occasion,
            parameters: "",
            refuses: None,
            only: &[],
            path: Path::SkLookup,
            lacks: &[],
        }
    }

    /// One that is compiled here, and has no sk_lookup.
    const fn compiled(name: &'static str, compiled: Compiled) -> Self {
        let source = Source::Compiled(compiled);
        Self { source, path: Path::Tproxy, lacks: &["bpf"], ..Self::debian(name, "", Occasion::Full) }
    }

    /// Those of each time, or all.
    pub(super) fn of(occasion: Occasion) -> Vec<&'static Self> {
        let wanted = |kernel: &&Self| occasion == Occasion::Full || kernel.occasion == Occasion::Always;
        KERNELS.iter().filter(wanted).collect()
    }

    /// The kernel called `name`.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        KERNELS.iter().find(|kernel| kernel.name == name)
    }
}

impl Compiled {
    /// The name of its entry in the cache.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NoBpf => "no-bpf",
            Self::NoSkLookup => "no-sk-lookup",
        }
    }

    /// Its options, as `make allnoconfig` takes them.
    pub(super) fn options(self) -> String {
        let base = include_str!("no-bpf.config");
        match self {
            Self::NoBpf => base.to_owned(),
            Self::NoSkLookup => format!("{base}{}", include_str!("no-sk-lookup.config")),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bpf => "bpf",
        })
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        if !self.parameters.is_empty() {
            write!(f, ", with {}", self.parameters)?;
        }
        if let Some(call) = self.refuses {
            write!(f, ", every process without {call}(2)")?;
        }
        f.write_str(if self.occasion == Occasion::Full { " (--full)" } else { "" })
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SkLookup => "sk-lookup",
            Self::Tproxy => "tproxy",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian(prefix) => write!(f, "Debian's {prefix}*-cloud-amd64"),
            Self::Compiled(_) => f.write_str("compiled from Debian's linux-source-6.1"),
        }
    }
}
